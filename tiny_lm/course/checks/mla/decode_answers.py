"""Answers to task 3.9 that are right in other styles.

Chapter: 03_mla/memory_of_the_context
Source: course
"""

import torch

from tiny_lm.course.checks.mla.decode import task_3_9


@task_3_9.accepts
def token_by_token_with_one_read(read, new_caches, prompt, num_new):
    """What is read next is the prompt at first, and later the newest token."""
    caches, position, unread, text = new_caches(prompt.numel() + num_new), 0, prompt, []
    while len(text) < num_new:
        logits = read(unread, position, caches)
        position += unread.numel()
        unread = logits[-1:].softmax(-1).argmax(-1)
        text += unread.tolist()
    return torch.tensor(text)


@task_3_9.accepts
def reads_the_last_one_too(read, new_caches, prompt, num_new):
    caches = new_caches(len(prompt) + num_new)
    out = torch.zeros(num_new, dtype=torch.int64)
    logits = read(prompt, 0, caches)
    for n in range(num_new):
        out[n] = torch.topk(logits[-1], 1).indices[0]
        logits = read(out[n : n + 1], len(prompt) + n, caches)
    return out
