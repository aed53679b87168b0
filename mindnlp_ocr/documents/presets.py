"""Presets: settings for reading documents with a family of checkpoints, one YAML file each."""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mindnlp_ocr.config import read_json
from mindnlp_ocr.documents.settings import FILE, DocumentSettings
from mindnlp_ocr.errors import SetupError

FOLDER = Path(__file__).parent.parent / "assets" / "presets"
DEFAULT = "plain"
OF_THE_CHECKPOINT = ("lines", "confidence")  # fitted to a checkpoint, whose own file therefore overrides a preset


class Preset(DocumentSettings):
    """Settings, and the checkpoints for which they are.

    Attributes:
        models: patterns such as "*olmocr-7b-0225*" that are matched against the lower-case name of the checkpoint's folder.
    """

    models: tuple[str, ...] = ()


def names() -> tuple[str, ...]:
    """Return the names of the presets that the package contains."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def load(name: str) -> Preset:
    """Load a preset by its name or from a YAML file.

    Raises:
        SetupError: the preset or the file does not exist or cannot be used.
    """
    import yaml  # imported only if a preset is needed

    path = FOLDER / f"{name}.yaml" if name in names() else Path(name)
    if not path.suffix:
        raise SetupError(f"--preset {name} is unknown: use {', '.join(names())}, or a YAML file", code="preset_unknown")
    try:
        given: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise SetupError(
            f"--preset {name} cannot be read ({reason}): pass a YAML file such as configs/presets/plain.yaml",
            code="settings_unreadable",
        ) from error
    if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
        raise SetupError(f"--preset {name} contains no settings: write lines such as `layout: page`", code="settings_empty")
    return Preset.checked(given, path)


def settings_of(folder: Path, checkpoint: str, preset: str | None = None) -> DocumentSettings:
    """Return the settings for reading documents with a checkpoint.

    They come from the given preset, else from the checkpoint's ``document_config.json``, else from the preset that matches
    its name, else from "plain". Settings that a preset omits, and those of lines and confidence, come from the checkpoint's
    file.

    Args:
        folder: the folder with the checkpoint's JSON files.
        checkpoint: the path of the checkpoint as the user gave it.
        preset: name or YAML file of a preset, or None.
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
    """Return the name of the preset that matches a checkpoint, or the default.

    The names compared are those of its folder and of the three folders above (as in the Hugging Face cache), and
    ``_name_or_path`` in its config.json.
    """
    config = folder / "config.json"
    origin = read_json(config).get("_name_or_path") if config.exists() else None
    parts = [part.lower() for part in (*Path(checkpoint).parts[-4:], *str(origin or "").split("/"))]
    for name in names():
        if any(fnmatchcase(part, pattern.lower()) for part in parts for pattern in load(name).models):
            return name
    return DEFAULT
