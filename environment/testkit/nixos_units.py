"""The units of systemd that an evaluated configuration of NixOS has, as NixOS writes them."""

from __future__ import annotations

from typing import Any


def unit_text(service: dict[str, Any]) -> str:
    """Return the unit file of an evaluated `systemd.services.NAME`."""
    unit = {
        "Description": service["description"],
        "After": " ".join(service.get("after", [])),
        "Wants": " ".join(service.get("wants", [])),
        "PartOf": " ".join(service.get("partOf", [])),
        **service.get("unitConfig", {}),
    }
    variables = [f'Environment="{name}={value}"' for name, value in service["environment"].items()]
    parts = ["[Unit]", *_lines(unit), "[Service]", *variables, *_lines(service["serviceConfig"])]
    return "\n".join([*parts, "[Install]", f"WantedBy={' '.join(service.get('wantedBy', []))}", ""])


def _lines(section: dict[str, Any]) -> list[str]:
    """One line for each value; a list has several."""
    return [
        f"{name}={str(each).lower() if isinstance(each, bool) else each}"
        for name, value in section.items()
        for each in (value if isinstance(value, list) else [value])
    ]
