"""python -m unittest test_train: what the stages take for granted about diffusers, and that the theatre is what it says."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

os.environ.setdefault("TRAIN_OUT", tempfile.mkdtemp())  # before run is imported: nothing here touches a training's files

import safetensors.torch
import torch
from diffusers import AutoencoderKLWan
from transformers import AutoTokenizer

import captions
import decoder
import dit
import export
import latents
import optim
import run
import scenes
import text
import vae as vae_stage
import vae_parallel
import widen
import world
from things import ACROSS, AND_BACK, BACKGROUNDS, MOTION, MOTIONS, SIDES, THINGS


def endless():
    """A stage that never ends, and tells who is at it."""
    (run.OUT / f"worker-{run.rank()}").write_text(str(os.getpid()))
    time.sleep(600)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Theatre(unittest.TestCase):
    def test_there_is_enough_of_everything(self):
        self.assertGreaterEqual(len(THINGS), 64)
        self.assertGreaterEqual(len(BACKGROUNDS), 12)
        for table in (THINGS, BACKGROUNDS, MOTIONS):
            self.assertEqual(len({x[1] if table is THINGS else x[0] for x in table}), len(table))

    def test_held_out_is_held_out(self):
        self.assertEqual(len(set(scenes.HELD_OUT)), 400)
        self.assertEqual({x[2] for x in scenes.HELD_OUT}, set(range(len(MOTIONS))))
        held, rng = set(scenes.HELD_OUT), random.Random(1)
        for frames in (5, 17, 33):
            for _ in range(1500):
                s = scenes.scene(rng, 96, 64, frames)
                for a in s.actors:
                    self.assertNotIn((a.thing, s.shots[a.shot].background, a.motion), held)

    def test_things_move_as_their_captions_say(self):
        """The drawing's middle, read from the pixels: what differs from the background on a plain one."""
        for name, axis, sign in (("left", 1, -1), ("right", 1, 1), ("up", 0, -1), ("down", 0, 1)):
            labels = [(thing, 0, MOTION[name]) for thing in range(8)]  # on white
            clips = world.clips(world.batch(random.Random(2), 8, (96, 64), 17, labels, plain=True))
            there = (clips - clips[:, :, :, :1, :1]).abs().amax(1) > 0.25  # [B, T, H, W]
            rows = torch.arange(64).view(1, 1, 64, 1), torch.arange(96).view(1, 1, 1, 96)
            at = [(there * r).sum((2, 3)) / there.sum((2, 3)).clamp(min=1) for r in rows]
            way = at[axis][:, -1] - at[axis][:, 0]
            self.assertTrue((way * sign > 8).all(), (name, way))
            self.assertTrue(((at[1 - axis][:, -1] - at[1 - axis][:, 0]).abs() < 8).all(), name)

    def test_things_pass_behind_from_the_side_that_is_said(self):
        """On white, where the drawing's middle without what stands in front is at the beginning and at the end."""
        labels = [(thing, 0, MOTION["hide"]) for thing in range(16)]
        made = world.batch(random.Random(6), 16, (96, 64), 17, labels, plain=True)
        clips = world.clips(made)
        hidden = clips[:, :, 8:9]  # behind the other by then
        there = (clips - hidden).abs().amax(1) > 0.25
        column = torch.arange(96).view(1, 1, 1, 96) - 48
        at = (there * column).sum((2, 3)) / there.sum((2, 3)).clamp(min=1)
        ways = set()
        for s, begin, end in zip(made, at[:, 0], at[:, -1]):
            actor = s.actors[0]
            begins = "left" if begin < 0 else "right"
            self.assertEqual(begins, actor.comes_from())
            self.assertEqual((begin * end > 0).item(), actor.there_and_back)
            ways.add((begins, actor.there_and_back))
        self.assertEqual(len(ways), 4)

    def test_all_sizes_and_lengths(self):
        rng = random.Random(3)
        for size, frames in (((64, 64), 1), ((160, 96), 5), ((96, 160), 17), ((64, 160), 49)):
            made = world.batch(rng, 2, size, frames)
            clips = world.clips(made)
            self.assertEqual(tuple(clips.shape), (2, 3, frames, size[1], size[0]))
            self.assertLessEqual(clips.abs().max(), 1)
            part = world.clips(made, ((32, 32), [(8, 16), (24, 32)]))
            self.assertLess((part[1] - clips[1, :, :, 32:64, 24:56]).abs().max(), 1e-3)

    def test_presence_is_where_the_drawing_is(self):
        labels = [(thing, 0, MOTION["right"]) for thing in range(8)]  # on white
        made = world.batch(random.Random(2), 8, (96, 64), 17, labels, plain=True)
        drawn = (world.clips(made) - world.clips(made)[:, :, :, :1, :1]).abs().amax(1) > 0.25
        cells = drawn.unflatten(3, (12, 8)).unflatten(2, (8, 8)).float().mean((3, 5)) > 0.2  # [B, T, 8, 12]
        there = world.renderer().presence(made)
        self.assertTrue((there | ~cells).all())
        self.assertLess(there.float().mean(), 0.5)

    def test_captions_name_what_is_there(self):
        rng = random.Random(4)
        for _ in range(300):
            s = scenes.scene(rng, 96, 64, 17)
            english, chinese = captions.caption(rng, s, False).lower(), captions.caption(rng, s, True)
            for i in s.named:
                thing = THINGS[s.actors[i].thing]
                self.assertIn(thing.english, english)
                self.assertIn(thing.chinese[1:], chinese)
            self.assertNotIn("{", english + chinese)

    def test_prompts_say_what_prompted_scenes_show(self):
        for label in [x for x in scenes.HELD_OUT if x[2] == scenes.HIDE]:
            actor = scenes.scene(random.Random(7), 96, 64, 17, label, plain=True, prompted=True).actors[0]
            side, far = ("left", "right") if actor.comes_from() == "left" else ("right", "left")
            told = f"comes back on the {side}" if actor.there_and_back else f"from {side} to {far}"
            self.assertIn(told, captions.prompt(label))

    def test_captions_name_the_side_that_something_comes_from(self):
        """It is the first side that a caption names, and most captions name one."""
        rng, named, count = random.Random(8), 0, 200
        for i in range(count):
            s = scenes.scene(rng, 96, 64, 17, (i % 72, i % 18, scenes.HIDE))
            for chinese, sides in ((False, ("left", "right")), (True, ("左", "右"))):
                found = re.search("|".join(sides), captions.caption(rng, s, chinese))
                if found:
                    named += 1
                    self.assertEqual(("left", "right")[sides.index(found[0])], s.actors[0].comes_from())
        self.assertTrue(0.8 < named / (2 * count) < 0.9, named)

    def test_tokenizer_takes_anything(self):
        tokenizer = text.tokenizer()
        for words in ("", "A RED Circle", "红色的圆 🎈", "a dragon\n\tflies"):
            found = tokenizer.encode(words)
            self.assertEqual(found.ids[-1], 1)
            self.assertNotIn(2, found.ids)
        for passage in (ACROSS, AND_BACK):  # which add no words of their own
            for word in re.findall("[a-z]+", re.sub("{[a-z]+}", "", " ".join(passage.does))):
                self.assertIsNotNone(tokenizer.token_to_id("▁" + word), word)
            for letter in re.findall("[\u4e00-\u9fff]", "".join((*passage.chinese, *SIDES.values()))):
                self.assertIsNotNone(tokenizer.token_to_id(letter), letter)
        rng = random.Random(5)
        said = [captions.caption(rng, scenes.scene(rng, 96, 64, 17)) for _ in range(3000)]
        self.assertLessEqual(max(len(tokenizer.encode(x).ids) for x in said), latents.TOKENS)
        with tempfile.TemporaryDirectory() as folder:
            text.save(Path(folder))
            again = AutoTokenizer.from_pretrained(folder)
            for x in said[:50]:
                self.assertEqual(again(x).input_ids, tokenizer.encode(x).ids)


class Stages(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(0)

    def test_vae_over_all_frames_is_diffusers_vae(self):
        vae = AutoencoderKLWan(**run.config("vae")["model"]).eval()
        for frames in (1, 5, 17):
            clips = world.clips(world.batch(random.Random(frames), 2, (64, 48), frames))
            with torch.no_grad():
                mean = vae.encode(clips).latent_dist.mean
                decoded = vae.decode(mean).sample
                with vae_parallel.parallel():
                    mean_2 = vae_parallel.encode(vae, clips)[0]
                    decoded_2 = vae_parallel.decode(vae, mean)
            self.assertLess((mean - mean_2).norm() / mean.norm(), 1e-4)
            self.assertLess((decoded - decoded_2.clamp(-1, 1)).norm() / decoded.norm(), 1e-4)

    def test_a_widened_vae_is_the_same_function(self):
        torch.manual_seed(4)
        narrow = AutoencoderKLWan(base_dim=8, z_dim=4, dim_mult=[1, 2, 4, 4], num_res_blocks=1)
        for parameter in narrow.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        wide = widen.widened(narrow, [1, 2, 5, 7])
        x = torch.rand(1, 3, 9, 48, 32) * 2 - 1
        with torch.no_grad():
            z = narrow.encode(x).latent_dist.mean
            self.assertLess((wide.encode(x).latent_dist.mean - z).norm() / z.norm(), 1e-5)
            y = narrow.decode(z).sample
            self.assertLess((wide.decode(z).sample - y).norm() / y.norm(), 1e-5)
        # And its new channels are written to after the first step, since something reads them.
        with vae_parallel.parallel():
            vae_parallel.decode(wide, z).square().mean().backward()
        into = wide.decoder.up_blocks[0].resnets[0].conv1.weight
        self.assertGreater(into.grad[len(into) * 4 // 7 :].abs().max(), 0)

    def test_a_better_decoder_leaves_the_latents(self):
        settings = ["vae.sizes=[[32,32]]", "decoder.dim_mult=[1,2,3,3]", "decoder.steps=2", "decoder.frames=[5]"]
        before = {k: os.environ.get(k) for k in ("TRAIN_SET", "TRAIN_PRESET", decoder.FROM)}
        with tempfile.TemporaryDirectory() as folder:
            try:
                run.choose("cpu")
                run.override([*settings, "decoder.pixels=5000", "vae.window=32"])
                os.environ[decoder.FROM] = folder
                narrow = AutoencoderKLWan(base_dim=8, z_dim=4, dim_mult=[1, 2, 2, 2], num_res_blocks=1)
                narrow.save_pretrained(Path(folder) / "vae")
                decoder.train()
                trained = decoder.model()
                self.assertEqual(run.Checkpoint("decoder", model=trained).load(must=True), 2)
            finally:
                (run.OUT / "decoder.pt").unlink(missing_ok=True)
                for name, value in before.items():
                    os.environ.pop(name) if value is None else os.environ.update({name: value})
        x = torch.rand(1, 3, 5, 32, 32) * 2 - 1
        with torch.no_grad():
            z = narrow.encode(x).latent_dist.mean
            self.assertLess((trained.encode(x).latent_dist.mean - z).norm() / z.norm(), 1e-5)
            self.assertGreater((trained.decode(z).sample - narrow.decode(z).sample).abs().max(), 1e-4)

    def test_a_replaced_vae_is_written_as_the_first_was(self):
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder) / "model"
            shutil.copytree(run.HERE.parents[1] / "src/embedded/model", folder)
            before = (folder / "vae/config.json").read_text()
            export.replace_vae(folder, AutoencoderKLWan.from_pretrained(folder / "vae"))
            self.assertEqual((folder / "vae/config.json").read_text(), before)

    def test_a_training_can_begin_with_a_model(self):
        given = run.HERE.parents[1] / "src/embedded/model"
        with tempfile.TemporaryDirectory() as folder:
            try:
                run.begin_with(given)
                _, encoder, transformer = dit.fresh()
                for network, name in ((encoder, "text_encoder/model"), (transformer, "transformer/diffusion_pytorch_model")):
                    stored = safetensors.torch.load_file(given / f"{name}.safetensors")
                    state = network.state_dict()
                    for key, value in stored.items():
                        self.assertTrue(torch.equal(state[key], value.float()), key)
                ids = latents.token_rows(text.tokenizer(), ["a cat"])
                self.assertEqual(dit.context(encoder, ids).shape[1], 9)
                self.assertEqual(vae_stage.trained().config.latents_std, json.loads((given / "vae/config.json").read_text())["latents_std"])
                # A model of other words is refused: its table of tokens would mean something else.
                other = Path(folder) / "model"
                (other / "tokenizer").mkdir(parents=True)
                (other / "tokenizer/tokenizer.json").write_text("{}")
                run.begin_with(other)
                with self.assertRaises(SystemExit):
                    dit.fresh()
            finally:
                os.environ.pop("TRAIN_FROM")

    def test_a_beginning_needs_no_encoding_of_its_own(self):
        """For the given frames of "first" and "prefix" the clip's own latents are those of the held timeline."""
        vae = AutoencoderKLWan(**run.config("vae")["model"]).eval()
        clips = world.clips(world.batch(random.Random(1), 2, (64, 48), 17))
        for kind in ("first", "prefix"):
            known = [latents.known_frames(kind, 17, random.Random(2))] * 2
            with torch.no_grad(), vae_parallel.parallel():
                own = vae_parallel.encode(vae, clips)[0]
                held = vae_parallel.encode(vae, latents.filled(clips, known))[0]
            at = torch.tensor(latents.latent_known(known[0]))
            self.assertTrue(at.any() and not at.all())
            self.assertLess((own - held)[:, :, at].abs().max(), 1e-4 * own.abs().max())
            self.assertGreater((own - held)[:, :, ~at].abs().max(), 1e-2 * own.abs().max())

    def test_one_padding_row_is_512(self):
        tokenizer = text.tokenizer()
        encoder, transformer = dit.models(run.config("dit"), tokenizer.get_vocab_size())
        # Not the silent padding of the first step.
        for p in transformer.parameters():
            p.data += 0.05 * torch.randn_like(p)
        said = ["a cat moves left in a meadow, the camera zooms in", ""]
        states = dit.context(encoder, latents.token_rows(tokenizer, said))
        x, t = torch.randn(2, 16, 3, 8, 8), torch.tensor([700.0, 20.0])
        full = torch.cat([states, states.new_zeros(2, dit.PADDED - states.shape[1], states.shape[2])], 1)
        with torch.no_grad():
            expected = transformer(x, t, full, return_dict=False)[0]
            short = transformer(x, t, states, return_dict=False)[0]
            dit.pad_in_one(transformer)
            got = transformer(x, t, states, return_dict=False)[0]
            # And a timestep a token, all the same, is one timestep.
            every = dit.token_times(t, torch.zeros(2, 3, dtype=torch.bool), x.shape)
            each = transformer(x, every, states, return_dict=False)[0]
        self.assertLess((got - expected).norm() / expected.norm(), 1e-5)
        self.assertGreater((short - expected).norm() / expected.norm(), 1e-3)
        self.assertLess((each - got).norm() / got.norm(), 1e-5)

    def test_given_frames(self):
        rng = random.Random(6)
        self.assertEqual(latents.latent_known([False] * 8 + [True]), [False, False, True])
        self.assertEqual(latents.latent_known([True] + [False] * 8), [True, False, False])
        for kind in latents.KINDS[1:]:
            for frames in (5, 17, 49):
                known = latents.known_frames(kind, frames, rng)
                self.assertTrue(any(known) and len(known) == frames)
        ramp = torch.arange(9.0).view(1, 1, 9, 1, 1)
        held = latents.filled(ramp, [[i in (2, 6) for i in range(9)]])
        self.assertEqual(held.flatten().tolist(), [2, 2, 2, 2, 2, 6, 6, 6, 6])

    def test_workers_end_with_their_parent(self):
        with tempfile.TemporaryDirectory() as out:
            code = "import run, test_train\nif __name__ == '__main__': run.workers(test_train.endless, 2)"
            (Path(out) / "endless_run.py").write_text(code)
            env = {**os.environ, "TRAIN_OUT": out, "PYTHONPATH": str(run.HERE)}
            parent = subprocess.Popen([sys.executable, f"{out}/endless_run.py"], env=env, stderr=subprocess.DEVNULL)
            files, until = [Path(out) / f"worker-{i}" for i in range(2)], time.time() + 120
            while not all(f.exists() and f.read_text() for f in files) and time.time() < until:
                time.sleep(0.2)
            pids = [int(f.read_text()) for f in files]
            self.assertTrue(all(map(alive, pids)))
            parent.kill()
            parent.wait()
            until = time.time() + 20
            while any(map(alive, pids)) and time.time() < until:
                time.sleep(0.2)
            self.assertFalse(any(map(alive, pids)))

    def test_muon_makes_orthogonal_steps(self):
        m = torch.randn(3, 40, 100)
        spread = torch.linalg.svdvals(optim.orthogonal(m).float())
        self.assertTrue((spread > 0.5).all() and (spread < 1.4).all(), spread)

    def test_muon_takes_convolutions_as_matrices(self):
        torch.manual_seed(3)
        kernel = torch.nn.Parameter(torch.zeros(8, 4, 3, 3, 3))
        kernel.grad = torch.randn(8, 4, 3, 3, 3).to(memory_format=torch.channels_last_3d)
        optim.Muon([kernel], lr=1.0, momentum=0.0).step()
        expected = -optim.orthogonal(kernel.grad.reshape(1, 8, -1)) * 0.2 * 108**0.5
        torch.testing.assert_close(kernel.detach().reshape(1, 8, -1), expected)

    def test_loss_falls_and_given_frames_are_left_out(self):
        c = run.config("dit")
        torch.manual_seed(1)
        tokenizer = text.tokenizer()
        encoder, transformer = dit.models(c, tokenizer.get_vocab_size())
        dit.pad_in_one(transformer)
        both = torch.nn.ModuleList([encoder, transformer])
        x0 = torch.randn(4, 16, 3, 4, 4)
        ids = latents.token_rows(tokenizer, ["a cat", "a dog", "一只猫", "a fox moves left"])
        given = torch.tensor([[True, False, False]] * 4)
        there = torch.rand(4, 3, 4, 4) < 0.3
        optimizer = optim.Both([(encoder, 1.0), (transformer, 1.0)], c, dit.inside)
        losses = []
        for step in range(12):
            torch.manual_seed(2)
            loss = dit.batch_loss(both, (x0, x0, given, ids, there), c, torch.ones(1, 16, 1, 1, 1))
            loss.backward()
            optimizer.step(1e-3)
            losses.append(loss.item())
        self.assertLess(losses[-1], losses[0])
        spoiled = x0.clone()
        spoiled[:, :, 0] = 100.0  # the answer at the given frame does not matter, only what is given
        with torch.no_grad():
            torch.manual_seed(2)
            a = dit.batch_loss(both, (x0, x0, given, ids, there), c, torch.ones(1, 16, 1, 1, 1))
            torch.manual_seed(2)
            b = dit.batch_loss(both, (spoiled, x0, given, ids, there), c, torch.ones(1, 16, 1, 1, 1))
        self.assertEqual(a.item(), b.item())


if __name__ == "__main__":
    unittest.main()
