"""What torch's distributed checkpoint asks of a program: plans and storage, for spans.

Chapter: 06_together/keep_and_resume
Source: torch_dcp

To save, each rank makes a plan of what it holds; the first rank takes out what several
hold, so that each number is written once, and evenly; each rank writes its file; the
first makes the checkpoint whole. To load, each rank is told which numbers of which file
make up what it holds now.

torch's own storage writes a pickle beside the tensors. This one writes what
`checkpoint_files` describes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    ReadItem,
    SavePlan,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import (
    create_read_items_for_chunk_list,
)
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from tiny_lm import checkpoint_files
from tiny_lm.parallel.spans import Span

Spans = Mapping[str, Span]


class SpanSavePlanner(dcp.DefaultSavePlanner):
    """Says which spans a rank holds; torch's own sees to it that each is saved once."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)

    def set_up_planner(
        self, state_dict: Spans, storage_meta: Any = None, is_coordinator: bool = False
    ) -> None:
        self.state_dict, self.is_coordinator = state_dict, is_coordinator

    def create_local_plan(self) -> SavePlan:
        self.plan = SavePlan([_to_write(n, s) for n, s in self.state_dict.items()])
        return self.plan

    def lookup_object(self, index: MetadataIndex) -> Tensor:
        return self.state_dict[index.fqn].numbers


class SpanLoadPlanner(dcp.DefaultLoadPlanner):
    """Asks for what makes up the spans of a rank, however they were cut when saved."""

    def set_up_planner(
        self,
        state_dict: Spans,
        metadata: Metadata | None = None,
        is_coordinator: bool = False,
    ) -> None:
        self.state_dict, self.metadata = state_dict, metadata
        self.is_coordinator = is_coordinator

    def create_local_plan(self) -> LoadPlan:
        reads = []
        for name, span in self.state_dict.items():
            there = self.metadata.state_dict_metadata.get(name)
            wanted = f"{span.size:,} numbers of {span.numbers.dtype}"
            if there is None:
                raise ValueError(f"it holds no {name}, {wanted}")
            held = f"{there.size.numel():,} numbers of {there.properties.dtype}"
            if held != wanted:
                raise ValueError(f"of {name} it holds {held}, not {wanted}")
            reads += create_read_items_for_chunk_list(name, there, [_chunk(span)])
        return LoadPlan(reads)

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        return self.state_dict[index.fqn].numbers


def _chunk(span: Span) -> ChunkStorageMetadata:
    return ChunkStorageMetadata(torch.Size([span.start]), span.numbers.shape)


def _to_write(name: str, span: Span) -> WriteItem:
    about = TensorWriteData(
        chunk=_chunk(span),
        properties=TensorProperties(dtype=span.numbers.dtype),
        size=torch.Size([span.size]),
    )
    index = MetadataIndex(name, [span.start])
    return WriteItem(index=index, type=WriteItemType.SHARD, tensor_data=about)


@dataclass(frozen=True)
class Written:
    """A rank's file, and the bytes that the rank has sent since the run began."""

    file: str
    num_bytes: int
    checksum: str
    sent: int


class Writer(dcp.StorageWriter):
    """Writes one file a rank, and then makes the checkpoint whole.

    Args:
        run: the run's folder.
        about: what the checkpoint says of itself besides; of the first rank.
        sent: bytes that this rank has sent.
    """

    def __init__(self, run: Path, about: Mapping[str, Any], sent: int) -> None:
        self.run, self.about, self.sent = run, about, sent
        self.draft: Path | None = None

    def reset(self, checkpoint_id: Any = None) -> None:
        pass

    def set_up_storage_writer(self, is_coordinator: bool, *_: Any, **__: Any) -> None:
        pass

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        self.draft = checkpoint_files.new_draft(self.run)
        places = (self.draft / f"{rank}.safetensors" for rank in range(len(plans)))
        return [
            replace(p, storage_data=at) for p, at in zip(plans, places, strict=True)
        ]

    def write_data(
        self, plan: SavePlan, planner: dcp.SavePlanner
    ) -> Future[list[WriteResult]]:
        path: Path = plan.storage_data
        tensors = {_key(i.index): planner.resolve_data(i).cpu() for i in plan.items}
        raw = to_safetensors(tensors)
        checkpoint_files.write_through(path, raw)
        mark = checkpoint_files.checksum(raw)
        written = Written(path.name, len(raw), mark, self.sent)
        return _done([WriteResult(i.index, len(raw), written) for i in plan.items])

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        by_index = {r.index: r.storage_data for rank in results for r in rank}
        files = {w.file: w for w in by_index.values()}
        tensors = {
            name: {
                "dtype": str(about.properties.dtype).removeprefix("torch."),
                "size": about.size[0],
                "spans": [
                    [c.offsets[0], c.sizes[0], by_index[_index(name, c)].file]
                    for c in about.chunks
                ],
            }
            for name, about in metadata.state_dict_metadata.items()
        }
        content = {
            **self.about,
            "bytes_sent": sum(w.sent for w in files.values()),
            "files": {
                name: {"bytes": w.num_bytes, "checksum": w.checksum}
                for name, w in files.items()
            },
            "tensors": tensors,
        }
        checkpoint_files.publish(self.draft, content)
        checkpoint_files.prune(self.run)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return False  # a run's folder is told to the constructor


class Reader(dcp.StorageReader):
    """Reads from a checkpoint that was checked before what a rank's plan asks for."""

    def __init__(self, checkpoint: Path, about: Mapping[str, Any]) -> None:
        self.checkpoint, self.about = checkpoint, about
        self.places: dict[MetadataIndex, str] = {}

    def reset(self, checkpoint_id: Any = None) -> None:
        pass

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        tensors = {}
        for name, about in self.about["tensors"].items():
            chunks = []
            for start, length, file in about["spans"]:
                chunk = ChunkStorageMetadata(torch.Size([start]), torch.Size([length]))
                self.places[_index(name, chunk)] = Path(file).name
                chunks.append(chunk)
            dtype = TensorProperties(dtype=getattr(torch, about["dtype"]))
            size = torch.Size([about["size"]])
            tensors[name] = TensorStorageMetadata(dtype, size, chunks)
        return Metadata(tensors)

    def set_up_storage_reader(self, metadata: Metadata, *_: Any, **__: Any) -> None:
        pass

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: dcp.LoadPlanner) -> Future[None]:
        by_file: dict[str, list[ReadItem]] = {}
        for item in plan.items:
            by_file.setdefault(self.places[item.storage_index], []).append(item)
        for name, items in by_file.items():
            with safe_open(self.checkpoint / name, framework="pt") as file:
                for item in items:
                    start, length = item.storage_offsets[0], item.lengths[0]
                    numbers = file.get_slice(_key(item.storage_index))
                    into = planner.resolve_tensor(item)
                    into.copy_(numbers[start : start + length])
        return _done(None)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return False


def _index(name: str, chunk: ChunkStorageMetadata) -> MetadataIndex:
    return MetadataIndex(name, chunk.offsets)


def _key(index: MetadataIndex) -> str:
    """The name of a span in its file; where it does not begin the row, with its start.

    A rank never holds two spans of a row that begin at the same number.
    """
    start = index.offset[0]
    return f"{index.fqn}@{start}" if start else index.fqn


def _done(value: Any) -> Future:
    future: Future = Future()
    future.set_result(value)
    return future
