"""The optimiser: Muon for the matrices and convolutions inside a network, AdamW for everything else.

Muon (Jordan et al. 2024) makes every update of a matrix nearly orthogonal, here scaled to the spread that AdamW's has
(arXiv:2502.16982), so that both take one learning rate. Matrices of one shape are done together.
"""

import torch
import torch.distributed as dist


def orthogonal(m, steps=5):
    """Nearly the nearest orthogonal matrices to m [N, rows, columns], by a quintic Newton-Schulz iteration."""
    x = m.to(torch.bfloat16)
    flat = x.shape[1] > x.shape[2]
    x = x.mT if flat else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        a = x @ x.mT
        x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    return (x.mT if flat else x).to(m.dtype)


def _shared_out(stacked):
    """The same by all workers together, each of them doing its part of the matrices."""
    if not dist.is_initialized():
        return orthogonal(stacked)
    count, rank = dist.get_world_size(), dist.get_rank()
    mine = slice(rank * len(stacked) // count, (rank + 1) * len(stacked) // count)
    found = torch.zeros_like(stacked)
    if mine.start < mine.stop:
        found[mine] = orthogonal(stacked[mine])
    dist.all_reduce(found)
    return found


class Muon(torch.optim.Optimizer):
    """For matrices, and for kernels of convolutions as the matrices [out, the rest]. Groups may have an lr of their own."""

    def __init__(self, groups, lr, momentum=0.95, weight_decay=0.0):
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            shapes = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault(tuple(p.shape), []).append(p)
            for shape, some in shapes.items():
                for p in some:
                    if "momentum" not in self.state[p]:
                        self.state[p]["momentum"] = torch.zeros_like(p)
                grads = [p.grad.contiguous() for p in some]
                momenta = [self.state[p]["momentum"] for p in some]
                torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
                ahead = torch._foreach_lerp(grads, momenta, group["momentum"])
                rows = torch.stack(ahead).flatten(2)
                update = (_shared_out(rows) * (0.2 * max(rows.shape[1:]) ** 0.5)).view(-1, *shape)
                torch._foreach_mul_(some, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(some, list(update.unbind(0)), alpha=-group["lr"])


class Both:
    """Muon and AdamW as one: one state, one learning rate times each group's `share`.

    `parts`: (network, share); `inside`: whether a parameter, of a name, is one of Muon's. In the configuration `muon` is the
    share of those, 0 for AdamW alone.
    """

    def __init__(self, parts, c, inside):
        groups = {True: [], False: []}
        for network, share in parts:
            for of_muon in (True, False):
                chosen = [p for n, p in network.named_parameters() if (c["muon"] > 0 and inside(n, p)) == of_muon]
                if chosen:
                    groups[of_muon].append({"params": chosen, "share": share * (c["muon"] if of_muon else 1)})
        decay = c["weight_decay"]
        self.all = [torch.optim.AdamW(groups[False], lr=c["lr"], betas=(0.9, 0.99), weight_decay=decay)]
        if groups[True]:
            self.all.append(Muon(groups[True], lr=c["lr"], weight_decay=decay))

    def step(self, lr):
        for optimizer in self.all:
            for group in optimizer.param_groups:
                group["lr"] = lr * group["share"]
            optimizer.step()
            optimizer.zero_grad()

    def state_dict(self):
        return [o.state_dict() for o in self.all]

    def load_state_dict(self, states):
        for optimizer, state in zip(self.all, states):
            optimizer.load_state_dict(state)
