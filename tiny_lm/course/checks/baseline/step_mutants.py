"""Answers to task 1.5 that are wrong, and some that are right in another style.

Chapter: 01_baseline/probability_machine
Source: course
"""

import math

import torch
import torch.nn.functional as F
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from tiny_lm.course.checks.baseline.step import task_1_5
from tiny_lm.course.checks.before.mutants import honest, wrong


def _loss(model, inputs, targets):
    return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


def _apply(model, optimizer, loss, max_norm):
    optimizer.zero_grad()
    loss.backward()
    clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()


@wrong(task_1_5, "returns_the_loss", "This is in bits")
def in_bits(model, optimizer, inputs, targets, max_norm):
    loss = _loss(model, inputs, targets) / math.log(2)
    _apply(model, optimizer, loss, max_norm)
    return loss.item()


@wrong(task_1_5, "returns_the_loss", "sum over positions")
def summed(model, optimizer, inputs, targets, max_norm):
    loss = _loss(model, inputs, targets) * targets.numel()
    _apply(model, optimizer, loss, max_norm)
    return loss.item()


@wrong(task_1_5, "returns_the_loss", "the model was asked again")
def loss_after(model, optimizer, inputs, targets, max_norm):
    _apply(model, optimizer, _loss(model, inputs, targets), max_norm)
    return _loss(model, inputs, targets).item()


@wrong(task_1_5, "returns_the_loss", "A function without `return`")
def no_return(model, optimizer, inputs, targets, max_norm):
    _apply(model, optimizer, _loss(model, inputs, targets), max_norm)


@wrong(task_1_5, "returns_the_loss", "one row of logits for each target")
def not_flattened(model, optimizer, inputs, targets, max_norm):
    loss = F.cross_entropy(model(inputs), targets)
    _apply(model, optimizer, loss, max_norm)
    return loss.item()


@wrong(task_1_5, "returns_the_loss", "take sizes from the tensors")
def size_as_a_number(model, optimizer, inputs, targets, max_norm):
    loss = F.cross_entropy(model(inputs).view(-1, 256), targets.view(-1))
    _apply(model, optimizer, loss, max_norm)
    return loss.item()


@wrong(task_1_5, "returns_the_loss", "lost its way back")
def detached(model, optimizer, inputs, targets, max_norm):
    loss = _loss(model, inputs, targets).detach()
    _apply(model, optimizer, loss, max_norm)
    return loss.item()


@wrong(task_1_5, "one_step", "optimizer.step()")
def no_step(model, optimizer, inputs, targets, max_norm):
    loss = _loss(model, inputs, targets)
    optimizer.zero_grad()
    loss.backward()
    clip_grad_norm_(model.parameters(), max_norm)
    return loss.item()


@wrong(task_1_5, "one_step", "Did loss.backward() run")
def no_backward(model, optimizer, inputs, targets, max_norm):
    loss = _loss(model, inputs, targets)
    optimizer.zero_grad()
    optimizer.step()
    return loss.item()


@wrong(task_1_5, "one_step", "erased before optimizer.step()")
def erased_too_early(model, optimizer, inputs, targets, max_norm):
    loss = _loss(model, inputs, targets)
    loss.backward()
    optimizer.zero_grad()
    clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    return loss.item()


@wrong(task_1_5, "one_step", "uphill")
def uphill(model, optimizer, inputs, targets, max_norm):
    loss = _loss(model, inputs, targets)
    _apply(model, optimizer, -loss, max_norm)
    return loss.item()


@wrong(task_1_5, "one_step", "A short one is left as it is")
def always_as_long(model, optimizer, inputs, targets, max_norm):
    loss = _loss(model, inputs, targets)
    optimizer.zero_grad()
    loss.backward()
    norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    for p in model.parameters():
        p.grad *= max_norm / norm
    optimizer.step()
    return loss.item()


@wrong(task_1_5, "fresh_gradient", "backward() adds")
def no_zero_grad(model, optimizer, inputs, targets, max_norm):
    loss = _loss(model, inputs, targets)
    loss.backward()
    clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    return loss.item()


@wrong(task_1_5, "clips", "it was not clipped")
def no_clip(model, optimizer, inputs, targets, max_norm):
    loss = _loss(model, inputs, targets)
    _apply(model, optimizer, loss, math.inf)
    return loss.item()


@wrong(task_1_5, "clips", "not between backward() and step()")
def clipped_after_the_step(model, optimizer, inputs, targets, max_norm):
    loss = _loss(model, inputs, targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    clip_grad_norm_(model.parameters(), max_norm)
    return loss.item()


@wrong(task_1_5, "clips", "turns the direction")
def clipped_by_value(model, optimizer, inputs, targets, max_norm):
    loss = _loss(model, inputs, targets)
    optimizer.zero_grad()
    loss.backward()
    clip_grad_value_(model.parameters(), max_norm)
    optimizer.step()
    return loss.item()


@wrong(task_1_5, "clips", "of all parameters together")
def clipped_one_by_one(model, optimizer, inputs, targets, max_norm):
    loss = _loss(model, inputs, targets)
    optimizer.zero_grad()
    loss.backward()
    for p in model.parameters():
        clip_grad_norm_([p], max_norm)
    optimizer.step()
    return loss.item()


@wrong(task_1_5, "clips", "Is `max_norm` used?")
def clipped_to_one(model, optimizer, inputs, targets, max_norm):
    loss = _loss(model, inputs, targets)
    optimizer.zero_grad()
    loss.backward()
    norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    if max_norm < norm:
        for p in model.parameters():
            p.grad /= norm
    optimizer.step()
    return loss.item()


@wrong(task_1_5, "learns", "of all sequences")
def first_sequence_alone(model, optimizer, inputs, targets, max_norm):
    loss = _loss(model, inputs[:1], targets[:1])
    _apply(model, optimizer, loss, max_norm)
    return loss.item()


@honest(task_1_5)
def loop_over_sequences(model, optimizer, inputs, targets, max_norm):
    optimizer.zero_grad(set_to_none=False)
    total = 0.0
    for x, y in zip(inputs, targets, strict=True):
        loss = F.cross_entropy(model(x[None])[0], y) / len(inputs)
        loss.backward()
        total += loss.item()
    clip_grad_norm_(list(model.parameters()), max_norm)
    optimizer.step()
    return total


@honest(task_1_5)
def by_hand_and_cleans_up_after(model, optimizer, inputs, targets, max_norm):
    log_p = model(inputs).log_softmax(-1)
    loss = -log_p.gather(-1, targets[..., None]).mean()
    loss.backward()
    grads = [p.grad for p in model.parameters()]
    norm = sum(g.double().square().sum() for g in grads).sqrt()
    for g in grads:
        g.mul_(min(1.0, max_norm / float(norm)))
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


@honest(task_1_5)
def classes_in_dim_one(model, optimizer, inputs, targets, max_norm):
    loss = F.cross_entropy(model(inputs).transpose(1, 2), targets)
    _apply(model, optimizer, loss, max_norm)
    return loss.item()
