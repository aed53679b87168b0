"""Export of a model: its graphs as MindIR, its weights, and the files that reading needs."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import mindspore as ms

from mindnlp_ocr import __version__
from mindnlp_ocr.backends.select import Attention, AttentionChoice, Implementation
from mindnlp_ocr.cache.config import CacheConfig
from mindnlp_ocr.engine.buckets import until
from mindnlp_ocr.engine.graphs import Graphs
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.export.manifest import FILE, FORMAT, Manifest
from mindnlp_ocr.export.write import Shape, write_graphs, write_parameters
from mindnlp_ocr.models.limits import Limits, settle
from mindnlp_ocr.models.memory import Memory
from mindnlp_ocr.models.network import AskedDtype, CheckpointNetwork
from mindnlp_ocr.ops import native
from mindnlp_ocr.ops.device import Device
from mindnlp_ocr.weights.checkpoint import Checkpoint, open_checkpoint
from mindnlp_ocr.weights.convert import texts_of
from mindnlp_ocr.weights.lora import Adapter


def export_model(
    model_name: str | Path | Checkpoint,
    target: Path,
    device: str | Device = "cpu",
    lora_weights_path: str | Path | None = None,
    cache_config: CacheConfig | None = None,
    limits: Limits | None = None,
    vision_patches: Sequence[int] = (),
    attn: Attention = "auto",
    dtype: AskedDtype = "auto",
    force: bool = False,
) -> Manifest:
    """Write a folder for ``Qwen2VLModel.from_exported``. The device is not needed, since graphs are not run.

    Args:
        cache_config: number and dtype of the KV slots of the graphs.
        limits: see ``Qwen2VLModel``. There is a graph for every prompt bucket up to max_length.
        vision_patches: sizes of the vision graphs in patches, multiples of 4; by default all sizes for images up to
            max_pixels. The largest size limits the images.
        attn: "auto" means flash on a CPU and eager on Ascend.

    Raises:
        SetupError: the checkpoint or a setting cannot be used, the target exists, or MindSpore cannot export a graph.
    """
    replaced = target.is_dir() and ((target / FILE).exists() or not any(target.iterdir()))
    if target.exists() and not (force and replaced):
        raise SetupError(
            f"{target} exists: name another folder, or add --force, which replaces an exported one", code="target_exists"
        )
    device = Device.parse(device)
    if device.kind == "GPU":
        device.check()
    adapter = None if lora_weights_path is None else Adapter(lora_weights_path)
    network = CheckpointNetwork(open_checkpoint(model_name), adapter)
    config = network.config
    patch, merged = config.vision.patch_size**2, config.vision.spatial_merge_size**2
    if odd := [size for size in vision_patches if size < merged or size % merged]:
        raise SetupError(f"vision_patches contains {odd[0]}: use multiples of {merged}", code="vision_patches_invalid")
    limits = limits or Limits()
    if vision_patches:
        largest = max(vision_patches) * patch
        limits = limits._replace(max_pixels=min(limits.max_pixels or largest, largest))
    with network.files() as folder:
        max_length, max_new_tokens, images = settle(folder, config, limits)
    if device.kind == "CPU":
        device.activate()
    choice = AttentionChoice(_implementation(device, attn), True, "")
    memory = Memory(config, device, max_length, cache_config or CacheConfig(), choice)
    backends = memory.new_backends()
    kv = memory.new_kv(backends)
    graphs = network.graphs(device, dtype, memory, backends, kv)
    patches = -(-images.max_pixels // (patch * merged)) * merged
    partial = target.with_name(target.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    parameters, files = write_parameters(partial, graphs.parameters())
    written = write_graphs(partial, graphs, kv, config, _shapes(graphs, vision_patches, patches, kv.shape[0]))
    manifest = Manifest(
        format=FORMAT,
        mindnlp_ocr=__version__,
        mindspore=ms.__version__,
        device=device.kind,
        attention=choice.implementation,
        dtype=network.dtype,
        kv_dtype=memory.kv_dtype,
        slots=kv.shape[0],
        max_length=max_length,
        min_pixels=images.min_pixels,
        max_pixels=images.max_pixels,
        max_new_tokens=max_new_tokens,
        fingerprint=network.checkpoint(adapter).fingerprint(),
        graphs=tuple(written),
        parameters=tuple(parameters),
        parameter_files=tuple(files),
    )
    for name, text in texts_of(network.checkpoint(adapter), network.dtype).items():
        (partial / name).write_bytes(text)
    (partial / FILE).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    if target.exists():
        shutil.rmtree(target)
    partial.replace(target)
    return manifest


def _implementation(device: Device, asked: Attention) -> Implementation:
    """Return the requested implementation. Whether an Ascend device supports it is checked when the graphs are loaded."""
    if asked == "flash" and device.kind == "CPU" and not native.available()[0]:
        raise SetupError(f"flash attention is required: {native.available()[1]}: use --attn eager", code="flash_unavailable")
    if asked == "auto":
        return "flash" if device.kind == "CPU" and native.available()[0] else "eager"
    return asked


def _shapes(graphs: Graphs, vision_patches: Sequence[int], patches: int, slots: int) -> list[Shape]:
    vision = sorted(set(vision_patches)) or list(until(patches, graphs.buckets("vision")))
    decode = sorted({graphs.decode_bucket(texts) for texts in range(1, slots + 1)})
    return [
        *(Shape("vision", bucket) for bucket in vision),
        *(Shape("prefill", bucket) for bucket in graphs.buckets("prefill")),
        *(Shape("decode", bucket) for bucket in decode),
        *(Shape("sample", rows) for rows in sorted({1, *decode}) if graphs.backends.text.samples_in_graph),
        *(Shape("copy", 1) for _ in range(graphs.backends.text.slots_on_device)),
    ]
