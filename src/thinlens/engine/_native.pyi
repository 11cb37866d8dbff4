from collections.abc import Sequence
from typing import Annotated

import numpy
from numpy.typing import NDArray


class Slice:
    """`channels` channels of a tensor, from `first` on."""

    def __init__(self, tensor: int, first: int, channels: int) -> None: ...

    @property
    def tensor(self) -> int: ...

    @property
    def first(self) -> int: ...

    @property
    def channels(self) -> int: ...

class Shape:
    """
    A tensor's sizes and how its rows are stored: `row_vectors` vectors per row, `halo` vectors and rows of padding on every side, float32 values with `fp32_storage` (only for a network's output).
    """

    def __init__(self, channels: int, height: int, width: int, row_vectors: int, halo: int = 0, fp32_storage: bool = False) -> None: ...

    @property
    def channels(self) -> int: ...

    @property
    def height(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def row_vectors(self) -> int: ...

    @property
    def halo(self) -> int: ...

    @property
    def fp32_storage(self) -> bool: ...

class LineBuffer:
    """
    A tensor of which only `rows` rows (the halo's included) are in memory at a time, with a copy for each strip; 0 rows: the whole tensor. Row y lies where row `y - wrap` did, and rows from `wrap` on repeat the first ones; 0: rows that are still needed are moved.
    """

    def __init__(self, rows: int = 0, copies: int = 1, wrap: int = 0) -> None: ...

    @property
    def rows(self) -> int: ...

    @property
    def copies(self) -> int: ...

    @property
    def wrap(self) -> int: ...

class ConvShape:
    """
    Sizes of a convolution, as torch names them: vertical, then horizontal. `padding` is above and left; the output's size says what is below and right.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_height: int, kernel_width: int, padding: Sequence[int] = [0, 0], stride: Sequence[int] = [1, 1], dilation: Sequence[int] = [1, 1], groups: int = 1) -> None: ...

    @property
    def in_channels(self) -> int: ...

    @property
    def out_channels(self) -> int: ...

    @property
    def kernel_height(self) -> int: ...

    @property
    def kernel_width(self) -> int: ...

    @property
    def padding(self) -> list[int]: ...

    @property
    def stride(self) -> list[int]: ...

    @property
    def dilation(self) -> list[int]: ...

    @property
    def groups(self) -> int: ...

class AxisPlacement:
    """
    A tile along one axis of a resize of a larger image: its first output sample of the image's `out_size`, its first input sample of `in_size`.
    """

    def __init__(self, out_first: int, out_size: int, in_first: int, in_size: int) -> None: ...

    @property
    def out_first(self) -> int: ...

    @property
    def out_size(self) -> int: ...

    @property
    def in_first(self) -> int: ...

    @property
    def in_size(self) -> int: ...

class Placement:
    """A tile in a resize of a larger image."""

    def __init__(self, rows: AxisPlacement, columns: AxisPlacement) -> None: ...

    @property
    def rows(self) -> AxisPlacement: ...

    @property
    def columns(self) -> AxisPlacement: ...

class PointwiseInstruction:
    """
    An operation on single values. Operands are numbers: first the inputs, then the results of the instructions so far; -1 - k is constant k.
    """

    def __init__(self, operation: str, operands: Sequence[int], constants: Sequence[int] = []) -> None: ...

class MachineLimits:
    """Peak rates of the machine, per second."""

    @property
    def flops(self) -> float:
        """Floating-point operations in registers."""

    @property
    def bytes(self) -> float:
        """Bytes read and written in memory."""

class Taps:
    """
    By output row or column, the rows or columns of the input that it sums up, and their weights: `taps` of each; index -1 is none.
    """

    def __init__(self, indices: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], weights: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], taps: int) -> None: ...

class Windows:
    """
    By output row or column, where its window of the input begins and ends.
    """

    def __init__(self, begins: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], ends: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> None: ...

class SparseWeights:
    """
    Weights in compressed sparse rows, one row per output channel. An index points into [kernel_height, kernel_width, in_channels / groups].
    """

    def __init__(self, shape: ConvShape, starts: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], indices: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], values: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], bias: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> None: ...

    @property
    def nonzeros(self) -> int: ...

class Kernels:
    """The kernels of one set of instructions."""

    @property
    def name(self) -> str: ...

    @property
    def lanes(self) -> int:
        """Values per vector."""

    @property
    def value_bytes(self) -> int:
        """Bytes per stored value."""

    def floats(self, shape: Shape, line_buffer: LineBuffer = ...) -> int:
        """Return the size of a tensor in units of 4 bytes, whatever its storage."""

def available_kernels(storage: str = 'fp32') -> list[str]:
    """
    List the kernels that this CPU supports, the slowest first, by the storage of their activations: fp32 or bf16.
    """

def kernels(name: str) -> Kernels:
    """Return the kernels of that name."""

class ThreadPool:
    """Threads that run programs."""

    def __init__(self, threads: int) -> None: ...

    @property
    def threads(self) -> int: ...

def measure_limits(kernels: Kernels, pool: ThreadPool) -> MachineLimits:
    """
    Measure the machine's peak rates with the pool's threads; takes about half a second.
    """

class StreamRead:
    """
    An input of a node: the node that computes it (-1: none of them), its buffer, and the rows that one computed row reads, as `Footprint`.
    """

    def __init__(self, node: int, buffer: int, stride: int = 1, above: int = 0, below: int = 0, divisor: int = 1) -> None: ...

class StreamNode:
    """
    An operation: `rows` before its pixel shuffle by `upscale`, computed `row_step` at a time into a buffer.
    """

    def __init__(self, rows: int, upscale: int, row_step: int, buffer: int, streams: bool, is_step: bool, reads: Sequence[StreamRead]) -> None: ...

class StreamBuffer:
    """A block of memory that nodes write and read."""

    def __init__(self, height: int, halo: int, row_bytes: int = 0, is_output: bool = False) -> None: ...

class StreamLimits:
    """
    Bytes of a thread's line buffers, the fewest rows of a row block and of a strip, and the most row blocks of a strip.
    """

    def __init__(self, cache_bytes: int, block_rows: int, strip_rows: int, blocks: int) -> None: ...

class StreamGroup:
    """Consecutive nodes that stream together."""

    @property
    def first(self) -> int: ...

    @property
    def count(self) -> int: ...

    @property
    def strips(self) -> list[list[list[int]]]:
        """
        By strip and row block, the rows that each node has reached; first where it begins.
        """

    @property
    def line_buffers(self) -> list[list[int]]:
        """The buffers that only these nodes use, and the rows of each in memory."""

class StreamPlan:
    """A network's operations, in the order in which they run."""

    def __init__(self, nodes: Sequence[StreamNode], buffers: Sequence[StreamBuffer]) -> None: ...

    def groups(self, limits: StreamLimits, threads: int) -> list[StreamGroup]:
        """
        Cut the nodes into groups, each as long as its line buffers fit into the cache; nodes that run alone are in none.
        """

    def buffer_rows(self, strip: Sequence[Sequence[int]]) -> list[int]:
        """
        Return the rows, the halo's included, that a strip of all nodes needs of each buffer.
        """

class Program:
    """
    Operations on tensors that share one arena. Every method validates its arguments; a ValueError describes what does not fit.
    """

    def __init__(self, kernels: Kernels, arena_floats: int) -> None: ...

    def tensor(self, offset: int, shape: Shape, line_buffer: LineBuffer = ...) -> int:
        """
        Place a tensor in the arena, `offset` floats from its beginning; return its number.
        """

    def pack(self, output: Slice, first_channel: int = 0, image: int = 0) -> None:
        """
        Read channels of an input image; its last row and column are repeated up to the tensor's size.
        """

    def unpack(self, input: Slice, image: int = 0) -> None:
        """Write a tensor to an output image."""

    def conv(self, weights: SparseWeights, input: Slice, output: Slice, residual: Slice | None = None, slope: float | Sequence[float] = 1.0, shuffle: int = 1, channel_group: int = 0, input_range: float = 0.0) -> None:
        """
        Convolve, add `residual`, apply an activation (`slope` of its negative side, one or by channel: 1 none, 0 ReLU), then shuffle pixels by a factor.

        The sparse kernel traverses `channel_group` input channels together; 0 selects the dense kernel, -1 Winograd's (3x3, stride 1). With an `input_range` the sparse and the dense kernel multiply 16-bit integers: inputs beyond the range are saturated and counted.
        """

    def pointwise(self, inputs: Sequence[Slice], output: Slice, instructions: Sequence[PointwiseInstruction], constants: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)]) -> None:
        """
        Run instructions on every value; the last one's results are the output.

        An input may have size 1 where the output has more: its values are broadcast. `constants` is [channels, constants].
        """

    def reduce_channels(self, input: Slice, output: Slice, reduction: str, count: int, first: int = 0, step: int = 1, correction: int = 0) -> None:
        """
        Reduce, for output channel c, the input's channels `c * first + j * step` of j < `count`: sum, mean, mean_square, maximum, minimum or variance, of `count - correction` values.
        """

    def reduce_space(self, input: Slice, output: Slice, reduction: str, group: int = 1, correction: int = 0) -> None:
        """
        Reduce the rows and columns of every `group` channels; each of them gets the result.
        """

    def channel_norm(self, input: Slice, output: Slice, weight: Sequence[float], bias: Sequence[float], epsilon: float) -> None:
        """
        Normalize each pixel's values over the channels, then scale and shift by channel.
        """

    def record_range(self, input: Slice) -> None:
        """Record the largest magnitude of a tensor's values; see `ranges`."""

    def max_pool(self, input: Slice, output: Slice, rows: Windows, columns: Windows, stride: int = 1) -> None:
        """
        Take the maximum over windows of rows and columns; windows are about `stride` rows apart.
        """

    def resample(self, input: Slice, output: Slice, rows: Taps, columns: Taps, fill: float = 0.0, stride: int = 1) -> None:
        """
        Sum up rows and columns by their weights; taps are about `stride` rows apart. Where both have one tap of weight 1, an index of -1 stands for `fill`.
        """

    def resize(self, input: Slice, output: Slice) -> None:
        """Resize bilinearly with half-pixel centres to the output's size."""

    def stream(self, first_step: int, strips: Sequence[Sequence[Sequence[int]]]) -> None:
        """
        Fuse the steps from `first_step` on, so that they run strip by strip (one thread each) and row block by row block: step i begins at row strip[0][i] and has reached row strip[b][i] after row block b.
        """

    def run(self, pool: ThreadPool, input: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None), device='cpu', writable=False)], output: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None), device='cpu')], placements: Sequence[Placement] = []) -> None:
        """
        Run on a batch [B, C, H, W]; `placements` are those of the resize steps, in order (none: they resize whole images).
        """

    def run_steps(self, pool: ThreadPool, inputs: Sequence[Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None), device='cpu', writable=False)]], outputs: Sequence[Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None), device='cpu')]], placements: Sequence[Placement], first: int, last: int) -> None:
        """
        Run the steps from `first` up to `last`, which read and write images [1, C, H, W] with any strides; what earlier steps have written is still there.
        """

    def run_blocks(self, pool: ThreadPool, input: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None), device='cpu', writable=False)], output: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None), device='cpu')], first: int, last: int, output_top: int) -> None:
        """
        Run the row blocks from `first` up to `last` of a program that is one fused group of one strip, on one image, and in order; `output` begins at row `output_top`.
        """

    def release(self) -> None:
        """Return the arena's memory until the next run."""

    def seconds(self) -> list[float]:
        """Return the seconds of each step of the last run."""

    def saturated(self) -> int:
        """
        Count the inputs of int16 convolutions that were beyond their range, in all runs.
        """

    def ranges(self) -> list[float]:
        """
        Return the largest magnitudes, in all runs, of the tensors whose range is recorded.
        """
