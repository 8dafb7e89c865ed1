"""python -m unittest test_train: what the stages take for granted about diffusers, and the checker on real clips."""

import random
import unittest

import torch
from diffusers import AutoencoderKLWan

import dit
import reading
import run
import text
import vae_parallel
import world


class Train(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(0)

    def test_vae_over_all_frames_is_diffusers_vae(self):
        vae = AutoencoderKLWan(**run.config("vae")["model"]).eval()
        for frames in (1, 5, 17):
            clips = world.batch(random.Random(frames), 2, frames, crop=32)[0]
            with torch.no_grad():
                mean = vae.encode(clips).latent_dist.mean
                decoded = vae.decode(mean).sample
                with vae_parallel.parallel():
                    mean_2 = vae_parallel.encode(vae, clips)[0]
                    decoded_2 = vae_parallel.decode(vae, mean)
            self.assertLess((mean - mean_2).norm() / mean.norm(), 1e-4)
            self.assertLess((decoded - decoded_2.clamp(-1, 1)).norm() / decoded.norm(), 1e-4)

    def test_one_padding_row_is_512(self):
        tokenizer = text.tokenizer()
        encoder, transformer = dit.models(run.config("dit"), tokenizer.get_vocab_size())
        # Not the silent padding of the first step.
        for p in transformer.parameters():
            p.data += 0.05 * torch.randn_like(p)
        states = dit.context(tokenizer, encoder, ["a red circle moves left over a blue background", ""])
        x, t = torch.randn(2, 16, 3, 8, 8), torch.tensor([700.0, 20.0])
        full = torch.cat([states, states.new_zeros(2, dit.PADDED - states.shape[1], states.shape[2])], 1)
        with torch.no_grad():
            expected = transformer(x, t, full, return_dict=False)[0]
            short = transformer(x, t, states, return_dict=False)[0]
            dit.pad_in_one(transformer)
            got = transformer(x, t, states, return_dict=False)[0]
        self.assertLess((got - expected).norm() / expected.norm(), 1e-5)
        self.assertGreater((short - expected).norm() / expected.norm(), 1e-3)

    def test_checker_reads_renderings(self):
        rng = random.Random(3)
        chosen = [rng.choice(world.COMBINATIONS) for _ in range(60)]
        found = reading.score(chosen, [world.render(x, rng) for x in chosen])
        self.assertGreater(found["all_four"], 0.99)
        # And it does not say yes to everything: each clip against another one's words.
        clips = [world.render(x, rng) for x in chosen[1:] + chosen[:1]]
        self.assertLess(reading.score(chosen, clips)["all"], 0.2)

    def test_held_out_is_held_out(self):
        self.assertEqual(len(set(world.HELD_OUT)), 120)
        self.assertFalse(set(world.HELD_OUT) & set(world.TRAINED))

    def test_tokenizer_takes_anything(self):
        tokenizer = text.tokenizer()
        for words in ("", "A RED Circle", "红色的圆 🎈", "a dragon\n\tflies"):
            found = tokenizer.encode(words)
            self.assertEqual(found.ids[-1], 1)
            self.assertNotIn(2, found.ids)
        longest = max(len(tokenizer.encode(x + ".").ids) for x in world.all_captions())
        self.assertLessEqual(longest, dit.TOKENS)


if __name__ == "__main__":
    unittest.main()
