"""A tokenizer and a network of a few lines, to test tasks with."""

import types

import torch


class Words:
    """A tokenizer of one id a word, in the form of Hugging Face's."""

    model_max_length = 512
    pad_token_id = 7

    def num_special_tokens_to_add(self, pair=False):
        return 3 if pair else 2

    def __call__(self, first, second=None, truncation=True, max_length=512, return_attention_mask=False):
        ids, kinds = [], []
        for i, words in enumerate(first):
            a = [1, *(10 + len(w) for w in words.split()), 2]
            b = [*(10 + len(w) for w in second[i].split()), 2] if second else []
            ids.append((a + b)[:max_length])
            kinds.append(([0] * len(a) + [1] * len(b))[:max_length])
        return {"input_ids": ids, "token_type_ids": kinds}


def seeing(inputs, classes=2):
    """A forward whose logits tell which text it saw, whatever the padding."""
    seen = (inputs["input_ids"] * inputs["attention_mask"]).sum(1).float()
    return types.SimpleNamespace(logits=torch.stack([torch.sin(seen * part) for part in range(classes)], 1))
