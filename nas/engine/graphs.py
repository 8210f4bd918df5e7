"""Steps of a loop as CUDA graphs.

A step of these networks is thousands of kernels, most of them so small that a GPU finishes them faster than a CPU
launches them. A CUDA graph launches all of them at once. It repeats the recorded kernels on the recorded addresses:
what changes from step to step must lie in tensors that stay where they are, and nothing in a step may wait for a
result on the CPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from nas.data import Batch
from nas.errors import UsageError

Outputs = tuple[Tensor, ...]
#: A step of a loop: a function of batches that gives tensors (its loss and logits) and changes others in place.
Step = Callable[..., Outputs]

#: Calls with batches of one shape before it is captured. In them optimizers make their buffers and cuDNN and cuBLAS
#: choose their algorithms and workspaces, none of which may happen within a capture; the notes on CUDA graphs in
#: PyTorch's documentation take three.
WARM_UP = 3


def captured(*steps: Step, device: torch.device, enabled: bool) -> tuple[Step, ...]:
    """The steps, on a GPU and if `enabled` as graphs that share their memory.

    The results are those of the steps themselves, but the outputs of one hold only until any of them is called again.
    """
    if device.type != "cuda" or not enabled:
        return steps
    # The steps of a loop take turns, so that all their graphs can use the same memory.
    memory = GraphMemory(device)
    return tuple(CapturedStep(step, memory) for step in steps)


class CapturedStep:
    """A step that is captured once for every shape of batches, and replayed from then on.

    The calls before that, WARM_UP for each shape, are steps like all others and only slower: nothing has to be undone.
    An epoch has two shapes, that of its last batch being the second.

    Raises UsageError for a step that cannot be captured.
    """

    def __init__(self, step: Step, memory: GraphMemory) -> None:
        self._step, self._memory = step, memory
        self._calls: Counter[tuple[torch.Size, ...]] = Counter()
        self._graphs: dict[tuple[torch.Size, ...], tuple[list[Batch], CudaGraph]] = {}

    def __call__(self, *batches: Batch) -> Outputs:
        """The outputs of the step for the batches; they hold until the next call of any step that shares the memory."""
        shapes = tuple(tensor.shape for batch in batches for tensor in batch)
        # Counted for each shape: another one has buffers of other sizes, and other algorithms may be the fastest.
        if self._calls[shapes] < WARM_UP:
            self._calls[shapes] += 1
            with self._memory.beside():
                return self._step(*batches)
        if shapes not in self._graphs:
            # The graph will always read these copies, wherever the loader puts its batches. Capturing computes nothing,
            # so that this call too must replay it below.
            inputs = [(images.clone(), labels.clone()) for images, labels in batches]
            self._graphs[shapes] = inputs, CudaGraph(lambda: self._step(*inputs), self._memory)
        inputs, graph = self._graphs[shapes]
        # On the current stream, as the replay: a batch is in place before the first kernel reads it.
        for (images, labels), (new_images, new_labels) in zip(inputs, batches, strict=True):
            images.copy_(new_images)
            labels.copy_(new_labels)
        return graph.replay()


class GraphMemory:
    """The stream and the pool of memory of graphs that are never replayed at the same time.

    One graph computes where the other's intermediate results were; the tensors that they give stay their own as long
    as both are only read before the next replay.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Runs eagerly on the stream of the captures, after all that came before and before all that follows.

        Workspaces belong to a stream, and nodes of autograd that outlive a step remember theirs.
        """
        main = torch.cuda.current_stream(self.device)
        # The GPU waits here, not the CPU: work queued on one stream starts when that on the other is done.
        self.stream.wait_stream(main)
        with torch.cuda.stream(self.stream):
            yield
        main.wait_stream(self.stream)


class CudaGraph:
    """The kernels that `function()` launches; capturing records them and runs none.

    The default generator of the device is registered with a graph by PyTorch: each replay draws new random numbers,
    the same as the function would. Gradients that the function makes, having set them to None, lie in the pool.
    """

    def __init__(self, function: Callable[[], Outputs], memory: GraphMemory) -> None:
        self._graph = torch.cuda.CUDAGraph()
        try:
            with (
                torch.cuda.device(memory.device),
                # Other threads go on: the one that pins what workers have read calls CUDA at any time.
                torch.cuda.graph(
                    self._graph, pool=memory.pool, stream=memory.stream, capture_error_mode="thread_local"
                ),
            ):
                # Tensors made here have addresses in the pool and no values yet; a replay writes these.
                self._outputs = function()
        except RuntimeError as error:
            # What fails inside ends the capture, which then fails too: the first of both errors says why.
            reason = error.__context__ or error
            if isinstance(reason, torch.OutOfMemoryError):  # not the graph's fault: told as for any other step
                raise reason from None
            line = str(reason).splitlines()[0]
            raise UsageError(f"a step cannot be captured as a CUDA graph ({line}); try --no-cuda-graph") from error

    def replay(self) -> Outputs:
        """Launches the kernels; the outputs are the same tensors each time."""
        self._graph.replay()
        return self._outputs
