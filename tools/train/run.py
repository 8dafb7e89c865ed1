"""What every stage shares: the configuration, the log, the worker processes, checkpoints to go on from."""

import json
import os
import random
import tempfile
import threading
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

HERE = Path(__file__).resolve().parent
OUT = Path(os.environ.get("TRAIN_OUT", HERE / "out"))


def preset():
    """Which part of config.json counts: $TRAIN_PRESET, else what the machine can do."""
    return os.environ.get("TRAIN_PRESET") or ("gpu" if torch.cuda.is_available() else "cpu")


def config(stage=None):
    values = json.loads((HERE / "config.json").read_text())
    values = {"seed": values["seed"], **values[preset()]}
    for name, value in json.loads(os.environ.get("TRAIN_SET", "{}")).items():
        *path, last = name.split(".")
        place = values
        for key in path:
            place = place[key]
        if last not in place:
            raise SystemExit(f"train: config.json has no {name}")
        place[last] = value
    return values[stage] if stage else values


def override(settings):
    """Other values than config.json's, as ["dit.steps=3000", ...], for this process and its workers."""
    values = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        values[name] = json.loads(value)
    os.environ["TRAIN_SET"] = json.dumps(values)
    config()


def choose(name):
    """Sets the preset, for this process and its workers."""
    os.environ["TRAIN_PRESET"] = name


def begin_with(folder):
    """A model's folder whose weights the transformer and the text encoder begin with, and whose VAE is taken as it is."""
    os.environ["TRAIN_FROM"] = str(Path(folder).resolve())


def beginning():
    """That folder, or None where everything begins with nothing."""
    folder = os.environ.get("TRAIN_FROM")
    return Path(folder) if folder else None


def stop_at(when):
    """Stages stop at that time (of time.time()), with everything stored."""
    os.environ["TRAIN_STOP"] = str(when)


def spent():
    """Whether that time has come."""
    return time.time() > float(os.environ.get("TRAIN_STOP", "inf"))


def keep_config():
    """Puts the configuration that is used beside what it makes."""
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "config.json").write_text(json.dumps({"preset": preset(), **config()}, indent=2) + "\n")


def device():
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast():
    return torch.autocast(device().type, torch.bfloat16)


_start = time.time()


def rank():
    return dist.get_rank() if dist.is_initialized() else 0


def log(stage, **values):
    """One JSON line to the terminal and to out/train.log; `s` counts seconds since this process began."""
    if rank() != 0:
        return
    line = json.dumps({"stage": stage, "s": round(time.time() - _start), **values})
    print(line, flush=True)
    OUT.mkdir(parents=True, exist_ok=True)
    with open(OUT / "train.log", "a") as f:
        f.write(line + "\n")


if torch.cuda.is_available():
    torch.backends.cudnn.benchmark = True  # few shapes, each of them often
    torch.set_float32_matmul_precision("high")


def _end_without(parent):
    """Ends this process when its parent is gone, however that ended: two trainings must not write one checkpoint."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _worker(index, stage, file, workers, parent):
    threading.Thread(target=_end_without, args=(parent,), daemon=True).start()
    # One thread each: threads of one process wait for each other at every operation, processes once a step, which
    # is far better where other work shares the cores.
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=index, world_size=workers)
    stage()
    dist.destroy_process_group()


def workers(stage, count):
    """Runs stage() in that many processes, and waits for them; in this one where it is to be one."""
    if count == 1:
        return stage()
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_worker, args=(stage, f"{folder}/meet", count, os.getpid()), nprocs=count)


def wait():
    """Until every worker is here."""
    if dist.is_initialized():
        dist.barrier()


def step_generators(salt, step):
    """For one step: a generator that all workers share, and one of this worker's own; torch's global one is seeded
    like the latter. So a run that goes on from a checkpoint draws what it would have drawn."""
    seed = config("seed") * 1000 + salt * 100
    own = f"{seed} {step} {rank()}"
    torch.manual_seed(random.Random(own).getrandbits(63))
    return random.Random(f"{seed} {step}"), random.Random(own)


def all_spent():
    """Whether the first worker's time has come, so that all stop at one step."""
    flag = torch.tensor([float(spent())])
    if dist.is_initialized():
        dist.broadcast(flag, 0)
    return flag.item() > 0


def average_gradients(parameters):
    """Replaces every gradient by its mean over the workers."""
    if not dist.is_initialized():
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for g, f in zip(gradients, flat.split([g.numel() for g in gradients])):
        g.copy_(f.view_as(g))


def learning_rate(step, c):
    """Linear warm-up, flat, then a linear fall to zero over the last `decay` steps."""
    return c["lr"] * min(1.0, (step + 1) / c["warmup"], (c["steps"] - step) / c["decay"])


class Checkpoint:
    """Saves everything that a stage's next step depends on; written whole or not at all."""

    def __init__(self, name, **parts):
        self.path, self.parts = OUT / f"{name}.pt", parts

    def save(self, step):
        if rank() != 0:
            return
        state = {k: v.state_dict() for k, v in self.parts.items()}
        torch.save({**state, "step": step}, self.path.with_suffix(".tmp"))
        os.replace(self.path.with_suffix(".tmp"), self.path)

    def load(self, must=False):
        """The step to go on with: 0 when there is nothing to go on from, unless there `must` be."""
        if not must and not self.path.exists():
            return 0
        state = torch.load(self.path, map_location=device())
        for k, v in self.parts.items():
            v.load_state_dict(state[k])
        return state["step"]
