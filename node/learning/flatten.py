"""A model whose parameters are views of one flat buffer.

Layout of the flat vector: tensors in state-dict order, one after the other. A convolution's weight
(out, in, height, width) is stored as (out, height, width, in), so that its view is channels-last, the
layout in which the CPU kernels are fastest; every other tensor is stored in its natural order. All
nodes use the same layout, so exchange and averaging need not know about it.
"""

import torch
from torch import Tensor, nn


class FlatModel:
    """Points a module's parameters at a flat buffer, and its gradients at another.

    Attributes:
        module: The model; its parameters must not be replaced from outside.
        tensor_sizes: Number of parameters of each tensor, in state-dict order.
        num_params: Their sum.
        gradient: Flat buffer of the last :meth:`backward`, shape (num_params,), float32.
    """

    def __init__(self, module: nn.Module) -> None:
        """Take over a float32 module without buffers. Its present values go to :meth:`initial`."""
        assert not list(module.buffers()), "a model with buffers is more than its parameters"
        self.module = module
        self._parameters = list(module.parameters())
        self._shapes = [tuple(parameter.shape) for parameter in self._parameters]
        self.tensor_sizes = tuple(parameter.numel() for parameter in self._parameters)
        self.num_params = sum(self.tensor_sizes)
        own = torch.empty(self.num_params)
        for view, parameter in zip(self.views(own), self._parameters, strict=True):
            view.copy_(parameter.detach())
        self._initial = own.clone()
        self.gradient = torch.zeros(self.num_params)
        for view, parameter in zip(self.views(self.gradient), self._parameters, strict=True):
            parameter.grad = view
        self._bound = self._initial
        self.bind(own)

    def initial(self) -> Tensor:
        """A fresh copy of the values the module had at construction, shape (num_params,)."""
        return self._initial.clone()

    def views(self, flat: Tensor) -> list[Tensor]:
        """The parts of a flat tensor, shaped as the parameters they stand for."""
        views: list[Tensor] = []
        for part, shape in zip(torch.split(flat, list(self.tensor_sizes)), self._shapes, strict=True):
            if len(shape) == 4:
                out, depth, height, width = shape
                views.append(part.view(out, height, width, depth).permute(0, 3, 1, 2))
            else:
                views.append(part.view(shape))
        return views

    def bind(self, flat: Tensor) -> None:
        """Make the parameters views of another flat float32 tensor, shape (num_params,). Copies nothing."""
        if flat.data_ptr() == self._bound.data_ptr():
            return  # views of the same memory: a worker that trains one node binds its row again and again
        self._bound = flat  # keeps the memory, so that its address stays its own
        for view, parameter in zip(self.views(flat), self._parameters, strict=True):
            parameter.data = view

    def backward(self, loss: Tensor) -> None:
        """Fill :attr:`gradient` with the gradient of a scalar loss."""
        self.gradient.zero_()
        loss.backward()  # type: ignore[no-untyped-call]
