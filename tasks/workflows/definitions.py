"""Reading ``/object_info``: which inputs of a node are widgets, in the order of the values in saved workflows."""

from dataclasses import dataclass, field

WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
# The frontend gives these integers a second widget that says what becomes of the value after a run.
SEED_NAMES = {"seed", "noise_seed"}
AFTER_RUN = "control_after_generate"


@dataclass(frozen=True)
class Input:
    """One declared input of a node class; ``companions`` are widgets the frontend puts behind it, and their values."""

    name: str
    type: str
    required: bool
    widget: bool
    options: dict
    choices: list | None = None
    companions: dict[str, str] = field(default_factory=dict)

    @property
    def default(self):
        """The value a new node shows: the declared default, else the frontend's."""
        if "default" in self.options:
            return self.options["default"]
        if self.type == "COMBO":
            return self.choices[0] if self.choices else None
        return {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False}[self.type]


def inputs_of(definition: dict) -> list[Input]:
    """The inputs of one entry of ``/object_info`` in the order of declaration, required before optional."""
    declared = definition["input"]
    return [
        _input(name, spec, section == "required")
        for section in ("required", "optional")
        for name, spec in declared.get(section, {}).items()
    ]


def _input(name: str, spec: list, required: bool) -> Input:
    kind = spec[0]
    options = spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {}
    choices = None
    if isinstance(kind, list) or kind == "COMBO":
        choices = kind if isinstance(kind, list) else options.get("options", [])
        kind = "COMBO"
    widget = kind in WIDGET_TYPES and not options.get("forceInput", False)
    companions = _companions(name, kind, options) if widget else {}
    return Input(name, kind, required, widget, options, choices, companions)


def _companions(name: str, kind: str, options: dict) -> dict[str, str]:
    controlled = options.get(AFTER_RUN, kind == "INT" and name in SEED_NAMES)
    if not controlled or kind not in ("INT", "COMBO"):
        return {}
    return {AFTER_RUN: "fixed"} if kind == "INT" else {AFTER_RUN: "fixed", "control_filter_list": ""}
