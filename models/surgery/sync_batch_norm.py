"""Batch norm over the images of all processes, on CPUs and GPUs, without blocking the host."""

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from utils.distributed import all_gather_cat, all_reduce_sum, get_world_size

PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class SyncBatchNorm(_BatchNorm):
    """As torch.nn.SyncBatchNorm, for CPU tensors too; each process has at least one value per channel.

    torch's own does not work on CPU tensors, and asks the GPU at every call which processes have values, which blocks
    the host. In training with several processes, mean, variance and their gradients are over all processes' values;
    otherwise this is a plain batch norm.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, ...); in training, every process has to call it, in the same order.

        Raises:
            ValueError: one value per channel over all processes, which has no variance.
        """
        if self.training and get_world_size() > 1:
            return self._normalize_by_all(x)
        return super().forward(x)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected (N, C, ...), got shape {tuple(input.shape)}")

    @torch.compiler.disable  # the compiler cannot trace the communication
    def _normalize_by_all(self, x: Tensor) -> Tensor:
        self._check_input_dim(x)
        if x.numel() // x.shape[1] * get_world_size() < 2:
            raise ValueError(f"expected at least 2 values per channel over all processes, got shape {tuple(x.shape)}")
        mean, var, momentum = None, None, self.momentum
        if self.track_running_stats:
            mean, var = self.running_mean, self.running_var
            self.num_batches_tracked.add_(1)
            if momentum is None:  # cumulative average
                momentum = 1 / self.num_batches_tracked.item()
        return _NormalizeByAll.apply(x, self.weight, self.bias, mean, var, self.eps, momentum or 0.0)


class SyncBatchNormAct(SyncBatchNorm):
    """Replaces timm's BatchNormAct2d: the norm, its dropout if it has one, and its activation."""

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


def convert_sync_batch_norms(module: nn.Module) -> nn.Module:
    """Replace every batch norm by a SyncBatchNorm with the same parameters and buffers.

    Args:
        module: changed in place; its state dict and parameters stay the same.

    Returns:
        The module, or the new norm if it is a batch norm itself.

    Raises:
        ValueError: a batch norm of an unknown class.
    """
    if not isinstance(module, _BatchNorm):
        for name, child in module.named_children():
            setattr(module, name, convert_sync_batch_norms(child))
        return module
    if isinstance(module, SyncBatchNorm):
        return module
    if type(module) not in (*PLAIN, BatchNormAct2d):
        raise ValueError(f"{type(module).__name__} cannot be synchronised over processes: train with one process")
    kind = SyncBatchNormAct if type(module) is BatchNormAct2d else SyncBatchNorm
    norm = kind(module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats)
    for name, value in (*module._parameters.items(), *module._buffers.items(), *module._modules.items()):
        setattr(norm, name, value)
    return norm.train(module.training)


class _NormalizeByAll(torch.autograd.Function):
    """Batch norm of (N, C, ...) by the statistics of all processes; updates the running ones.

    Gradients of weight and bias are of this process's loss, as for any layer, the gradient of the input is of the sum
    of all processes' losses.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, running_mean, running_var, eps, momentum) -> Tensor:
        x = _dense(x)
        statistics = _statistics_cuda if x.is_cuda else _statistics_cpu
        mean, inverse_std, counts = statistics(x, running_mean, running_var, eps, momentum)
        ctx.save_for_backward(x, weight, mean, inverse_std, counts)
        if x.is_cuda:
            return torch.batch_norm_elemt(x, weight, bias, mean, inverse_std, eps)
        scale = inverse_std if weight is None else inverse_std * weight.to(inverse_std.dtype)
        shift = -mean * scale if bias is None else bias.to(scale.dtype) - mean * scale
        return torch.addcmul(_channels(shift, x), _wide(x), _channels(scale, x)).to(x.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, weight, mean, inverse_std, counts = ctx.saved_tensors
        grad = _dense(grad)
        wanted = ctx.needs_input_grad[:3]
        differentiate = _backward_cuda if x.is_cuda else _backward_cpu
        grad_x, grad_weight, grad_bias = differentiate(grad, x, weight, mean, inverse_std, counts, wanted)
        return grad_x, grad_weight if wanted[1] else None, grad_bias if wanted[2] else None, None, None, None, None


def _statistics_cuda(x, running_mean, running_var, eps, momentum) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and 1 / standard deviation (C), and the number of values of every process (W), by torch's kernels."""
    mean, inverse_std = torch.batch_norm_stats(x, eps)
    means, inverse_stds, counts = _gather(x, mean, inverse_std)
    counts = counts.flatten()
    mean, inverse_std = torch.batch_norm_gather_stats_with_counts(
        x, means, inverse_stds, running_mean, running_var, momentum, eps, counts
    )
    return mean, inverse_std, counts.to(torch.int32)


def _statistics_cpu(x, running_mean, running_var, eps, momentum) -> tuple[Tensor, Tensor, Tensor]:
    """As `_statistics_cuda`, from the means and variances of the processes."""
    var, mean = torch.var_mean(_wide(x), _other_axes(x), correction=0)
    means, variances, counts = _gather(x, mean, var)
    share = counts / counts.sum()
    mean = (share * means).sum(0)
    var = (share * (variances + (means - mean).square())).sum(0)
    if running_mean is not None:
        total = counts.sum()
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_var.lerp_((var * total / (total - 1)).to(running_var.dtype), momentum)
    return mean, (var + eps).rsqrt(), counts


def _backward_cuda(grad, x, weight, mean, inverse_std, counts, wanted):
    sum_grad, sum_grad_x, grad_weight, grad_bias = torch.batch_norm_backward_reduce(
        grad, x, mean, inverse_std, weight, *wanted
    )
    if not wanted[0]:
        return None, grad_weight, grad_bias
    sum_grad, sum_grad_x = all_reduce_sum(torch.stack([sum_grad, sum_grad_x]))
    weight = weight if weight is None else weight.to(mean.dtype)
    grad_x = torch.batch_norm_backward_elemt(grad, x, mean, inverse_std, weight, sum_grad, sum_grad_x, counts)
    return grad_x, grad_weight, grad_bias


def _backward_cpu(grad, x, weight, mean, inverse_std, counts, wanted):
    """grad_x = s * (grad - mean(grad) - x_hat * mean(grad * x_hat)) with s = weight / std."""
    wide, axes = _wide(grad), _other_axes(x)
    centred = _wide(x) - _channels(mean, x)
    sum_grad = wide.sum(axes)
    sum_grad_hat = (wide * centred).sum(axes) * inverse_std
    if not wanted[0]:
        return None, sum_grad_hat, sum_grad
    mean_grad, mean_grad_hat = all_reduce_sum(torch.stack([sum_grad, sum_grad_hat])) / counts.sum()
    scale = inverse_std if weight is None else inverse_std * weight.to(inverse_std.dtype)
    grad_x = torch.addcmul(_channels(-scale * mean_grad, x), wide, _channels(scale, x))
    grad_x.addcmul_(centred, _channels(-scale * inverse_std * mean_grad_hat, x))
    return grad_x.to(x.dtype), sum_grad_hat, sum_grad


def _gather(x: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Two statistics (C) of every process as (W, C), and its number of values per channel, (W, 1)."""
    count = first.new_full((1,), x.numel() // x.shape[1])
    channels = first.numel()
    return all_gather_cat(torch.cat([first, second, count])[None]).split([channels, channels, 1], dim=1)


def _dense(x: Tensor) -> Tensor:
    """Itself where it is contiguous or channels_last, else a contiguous copy."""
    return x if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()


def _wide(x: Tensor) -> Tensor:
    """In float32 at least."""
    return x if x.dtype == torch.float64 else x.float()


def _other_axes(x: Tensor) -> list[int]:
    return [axis for axis in range(x.dim()) if axis != 1]


def _channels(values: Tensor, x: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (x.dim() - 2))
