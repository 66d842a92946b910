"""What a model remembers of the tokens it has read, so that it reads each only once.

Chapter: 03_mla
Source: attention; deepseek_v3, section 2.1.1; deepseek_v32

Room for `max_len` positions is taken at once. A cache that grew by making a longer
tensor would copy everything that it holds for every new token, and for a moment need
its memory twice; here a token is written into its place and all others stay where they
are, and attention reads them there.

A `Cache` belongs to one attention layer. A `Context` holds one for every layer, and
what they share: how much was read, and what of it is padding.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tiny_lm.quantize import dequantize_tiles, quantize_tiles


class Cache:
    """The memory of one attention layer.

    Args:
        shapes: one tensor is kept for each. `(width,)` is stored as "B S width", and
            `(heads, width)` as "B heads S width", so that a head's rows are neighbours.
        like: gives dtype and device.
    """

    def __init__(
        self,
        batch_size: int,
        max_len: int,
        shapes: Sequence[tuple[int, ...]],
        like: Tensor,
    ) -> None:
        self.length = 0
        self.max_len = max_len
        self.stores = [
            like.new_empty(batch_size, *heads, max_len, width)
            for *heads, width in shapes
        ]

    @property
    def batch_size(self) -> int:
        return self.stores[0].shape[0]

    @property
    def num_bytes(self) -> int:
        """Bytes that are allocated, whether positions are filled or not."""
        return sum(store.nbytes for store in self.stores)

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one more token of one sequence takes in this layer."""
        return self.num_bytes // (self.batch_size * self.max_len)

    def append(self, *new: Float[Tensor, "B ... T _"]) -> list[Tensor]:
        """Add the newest positions and return all of them, as views.

        No gradient flows into a cache.

        Raises:
            ValueError: the cache is full.
        """
        self.write(*new)
        return [store[..., : self.length, :] for store in self.stores]

    def write(self, *new: Tensor) -> None:
        """Add one tensor for each store."""
        end = self.length + new[0].shape[-2]
        if end > self.max_len:
            raise ValueError(f"the cache holds {self.max_len} positions, asked {end}")
        for store, x in zip(self.stores, new, strict=True):
            store[..., self.length : end, :] = x.detach()
        self.length = end

    def begin_with(self, other: "Cache") -> None:
        """Copy what another cache holds; one sequence of it serves a whole batch.

        Raises:
            ValueError: this cache is in use or too short, or the other is of another
                kind or batch.
        """
        if self.length:
            raise ValueError(f"the cache holds {self.length} positions already")
        shapes = [
            [(*s.shape[1:-2], s.shape[-1], s.dtype) for s in cache.stores]
            for cache in (self, other)
        ]
        if shapes[0] != shapes[1] or other.batch_size not in (1, self.batch_size):
            raise ValueError("the prefix was cached by another model or another batch")
        self.write(*(store[..., : other.length, :] for store in other.stores))


class QuantizedCache(Cache):
    """Latents as E4M3 codes with an FP32 scale a tile, rotary keys in BF16.

    At V3's widths 512 + 4 x 4 + 64 x 2 = 656 bytes a token and layer, where BF16 takes
    1,152. The rotary key stays in BF16.
    Differs: a GPU makes numbers of the codes on the chip, tile by tile; here all of
    them are made anew, in the model's own dtype, whenever attention reads.

    Source: deepseek_v32
    """

    def __init__(
        self, batch_size: int, max_len: int, widths: tuple[int, int], tile: int, like
    ) -> None:
        self.d_latent, d_rope = widths
        num_tiles = -(-self.d_latent // tile)
        super().__init__(
            batch_size, max_len, [(self.d_latent,), (num_tiles,), (d_rope,)], like
        )
        dtypes = (torch.float8_e4m3fn, torch.float32, torch.bfloat16)
        self.stores = [
            torch.empty_like(store, dtype=dtype)
            for store, dtype in zip(self.stores, dtypes, strict=True)
        ]
        self.tile, self.dtype = tile, like.dtype

    def append(self, *new: Float[Tensor, "B T _"]) -> list[Tensor]:
        """Add latents with their rotary keys, and return all as the codes stand for."""
        (joint,) = new
        codes, scales = quantize_tiles(joint[..., : self.d_latent].detach(), self.tile)
        self.write(codes, scales, joint[..., self.d_latent :])
        codes, scales, k_rope = (store[:, : self.length] for store in self.stores)
        latent = dequantize_tiles(codes, scales, self.tile)
        return [torch.cat([latent.to(self.dtype), k_rope.to(self.dtype)], dim=-1)]


class Context:
    """What a model has read of a batch of sequences.

    Sequences of unequal length stand in columns of one table: the shorter ones are
    padded on the left, so that all of them end, and go on, in the same column.
    Nobody sees padding, and it takes no position.

    Args:
        max_positions: that the model can tell apart.
        prefix: what was read before; one sequence of it serves the whole batch.

    Raises:
        ValueError: no room for the prefix, or it comes from another model or batch.
    """

    def __init__(
        self,
        layers: list[Cache],
        max_positions: int,
        prefix: "Context | None" = None,
    ) -> None:
        self.layers = layers
        self.max_positions = max_positions
        first = layers[0]
        device = first.stores[0].device
        size = (first.batch_size, first.max_len)
        self.num_columns = 0
        self.longest = 0  # most tokens read in one sequence
        self.num_read = torch.zeros(size[0], dtype=torch.int64, device=device)
        self.hidden = torch.zeros(size, dtype=torch.bool, device=device)
        self.is_padded = False
        if prefix is not None:
            self._begin_with(prefix)

    @property
    def num_bytes(self) -> int:
        """Bytes of all layers' caches."""
        return sum(cache.num_bytes for cache in self.layers)

    def advance(
        self, batch_size: int, num: int, real: Bool[Tensor, "B T"] | None = None
    ) -> tuple[Int[Tensor, "B T"] | None, Bool[Tensor, "B S"] | None]:
        """Take `num` more columns, for as many sequences as there are.

        Args:
            real: False where a column holds padding; None: nowhere.

        Returns:
            positions: of the new tokens, None where all sequences go on at `longest`
                of before.
            hidden: the padding among all columns, None where there is none.

        Raises:
            ValueError: another number of sequences, more columns than the caches hold,
                or more positions than the model can tell apart; nothing was taken then.
        """
        (sequences, max_len), end = self.hidden.shape, self.num_columns + num
        if batch_size != sequences or (real is not None and real.shape[0] != sequences):
            raise ValueError(f"the context is of {sequences} sequences")
        if end > max_len:
            raise ValueError(f"the cache holds {max_len} positions, asked {end}")
        if real is not None and not real.all():
            self.is_padded = True
        positions = self._take(num, real) if self.is_padded else self._take_all(num)
        self.num_columns = end
        return positions, self.hidden[:, :end] if self.is_padded else None

    def _take_all(self, num: int) -> None:
        require_length(self.longest + num, self.max_positions)
        self.longest += num
        self.num_read += num

    def _take(self, num: int, real: Tensor | None) -> Tensor:
        columns = slice(self.num_columns, self.num_columns + num)
        if real is None:
            real = torch.ones_like(self.hidden[:, columns])
        read = self.num_read.unsqueeze(1) + real.cumsum(1)
        longest = int(read[:, -1].max())
        require_length(longest, self.max_positions)
        self.longest, self.num_read = longest, read[:, -1].clone()
        self.hidden[:, columns] = ~real
        return (read - 1).clamp(min=0)

    def _begin_with(self, prefix: "Context") -> None:
        for cache, other in zip(self.layers, prefix.layers, strict=True):
            cache.begin_with(other)
        self.num_columns, self.longest = prefix.num_columns, prefix.longest
        self.num_read += prefix.num_read
        self.hidden[:, : self.num_columns] = prefix.hidden[:, : self.num_columns]
        self.is_padded = prefix.is_padded


def require_length(length: int, max_len: int) -> None:
    """Refuse more tokens than a model can place.

    Raises:
        ValueError: says how many, and how many there may be.
    """
    if length > max_len:
        raise ValueError(
            f"a sequence of {length} tokens is longer than max_len={max_len}"
        )
