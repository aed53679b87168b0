"""Presets: how documents are read with a family of checkpoints, one YAML file each (configs/presets)."""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mindnlp_ocr.config import read_json
from mindnlp_ocr.documents.settings import FILE, DocumentSettings
from mindnlp_ocr.errors import SetupError

FOLDER = Path(__file__).parent.parent / "assets" / "presets"
DEFAULT = "plain"
OF_THE_CHECKPOINT = ("lines", "confidence")  # fitted to it: its own file has the last word


class Preset(DocumentSettings):
    """Settings, and which checkpoints they are for.

    Attributes:
        models: patterns of names, such as "*olmocr-7b-0225*", compared with the checkpoint's folder in small letters.
    """

    models: tuple[str, ...] = ()


def names() -> tuple[str, ...]:
    """The presets that ship with the package."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def load(name: str) -> Preset:
    """A preset by its name, or from a file of the user's.

    Raises:
        SetupError: there is no such preset or file, or it cannot be used.
    """
    import yaml  # only where a preset is needed

    path = FOLDER / f"{name}.yaml" if name in names() else Path(name)
    if not path.suffix:
        raise SetupError(f"--preset {name} is unknown: give {', '.join(names())}, or a YAML file")
    try:
        given: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise SetupError(
            f"--preset {name} cannot be read ({reason}): give a YAML file such as configs/presets/plain.yaml"
        ) from error
    if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
        raise SetupError(f"--preset {name} holds no settings: give lines such as `layout: page`")
    return Preset.checked(given, path)


def settings_of(folder: Path, checkpoint: str, preset: str | None = None) -> DocumentSettings:
    """How documents are read with a checkpoint: as the named preset says; else as its ``document_config.json`` says; else
    as the preset for its name says; else as "plain" does.

    What a preset leaves out is as the checkpoint's file has it, and so are the settings of lines and confidence.

    Args:
        folder: with the checkpoint's JSON files.
        checkpoint: the path under which it was given.
    """
    path = folder / FILE
    declared = read_json(path) if path.exists() else {}
    if preset is None and declared:
        return DocumentSettings.checked(declared, path)
    chosen = load(preset or named(checkpoint, folder))
    own = {name: getattr(chosen, name) for name in chosen.model_fields_set if name in DocumentSettings.model_fields}
    kept = {name: declared[name] for name in OF_THE_CHECKPOINT if name in declared}
    return DocumentSettings.checked({**declared, **own, **kept}, path)


def named(checkpoint: str, folder: Path) -> str:
    """The preset for a checkpoint's name: that of its folder or of one of the three above it, as in a cache of Hugging
    Face, or the one that its config.json says it was made from."""
    config = folder / "config.json"
    origin = read_json(config).get("_name_or_path") if config.exists() else None
    parts = [part.lower() for part in (*Path(checkpoint).parts[-4:], *str(origin or "").split("/"))]
    for name in names():
        if any(fnmatchcase(part, pattern.lower()) for part in parts for pattern in load(name).models):
            return name
    return DEFAULT
