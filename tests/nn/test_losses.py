from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from nasframe.nn.losses import distillation, masked_mse, soft_cross_entropy


def logits(seed: int) -> torch.Tensor:
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_distillation_is_the_formula(temperature: float) -> None:
    student, teacher = logits(0), logits(1)
    p, q = (torch.softmax(x.double() / temperature, -1) for x in (student, teacher))
    expected = temperature**2 * (q * (q / p).log()).sum(-1).mean()
    assert float(distillation(student, teacher, temperature)) == pytest.approx(float(expected), rel=1e-5)


def test_soft_cross_entropy_differs_by_the_teachers_entropy() -> None:
    student, teacher = logits(0), logits(1)
    q = torch.softmax(teacher, -1)
    entropy = -(q * q.log()).sum(-1).mean()
    torch.testing.assert_close(soft_cross_entropy(student, teacher), distillation(student, teacher) + entropy)
    hard = torch.tensor([0, 1, 2, 0, 1])
    sure = functional.one_hot(hard, 3) * 1e4
    torch.testing.assert_close(soft_cross_entropy(student, sure), functional.cross_entropy(student, hard))


def test_teachers_get_no_gradient_and_bf16_is_summed_in_float32() -> None:
    student, teacher = logits(0).bfloat16().requires_grad_(), logits(1).bfloat16().requires_grad_()
    states = [x[None] for x in (student, teacher)]
    loss = distillation(student, teacher) + soft_cross_entropy(student, teacher) + masked_mse(*states)
    loss.backward()
    assert loss.dtype == torch.float32
    assert student.grad is not None
    assert teacher.grad is None


def test_masked_mse_ignores_padding() -> None:
    student = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    teacher, mask = torch.zeros(2, 4, 3), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    expected = torch.cat([student[0], student[1, :2]]).square().mean()
    torch.testing.assert_close(masked_mse(student, teacher, mask), expected)
    student[1, 2:] = 1e6
    torch.testing.assert_close(masked_mse(student, teacher, mask), expected)
    assert float(masked_mse(student, teacher)) > 1e6
    assert float(masked_mse(student, teacher, torch.zeros(2, 4))) == 0.0
