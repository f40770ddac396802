"""Write the example workflows of the ComfyUI nodes in both formats, and a picture of one for the documentation.

Run `python scripts/comfyui_workflows.py`; ComfyUI itself is not needed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path as Line

ROOT = Path(__file__).parents[1]
NODES = ROOT / "integrations" / "comfyui"
PICTURE = ROOT / "docs" / "images" / "comfyui.png"

SOURCES = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "person.png"}},
    "2": {"class_type": "LoadVideo", "inputs": {"file": "dance.mp4"}},
    "3": {"class_type": "MimicMotionLoad", "inputs": {}},
}
WORKFLOWS: dict[str, dict[str, Any]] = {
    "animate": {
        **SOURCES,
        "4": {"class_type": "MimicMotionAnimate", "inputs": {"image": ["1", 0], "source": ["2", 0], "model": ["3", 0]}},
    },
    "steps": {
        **SOURCES,
        "4": {"class_type": "MimicMotionPoses", "inputs": {"source": ["1", 0], "model": ["3", 0]}},
        "5": {"class_type": "MimicMotionPoses", "inputs": {"source": ["2", 0], "model": ["3", 0]}},
        "6": {
            "class_type": "MimicMotionAlign",
            "inputs": {"model": ["3", 0], "image": ["1", 0], "image_poses": ["4", 0], "poses": ["5", 0]},
        },
        "7": {"class_type": "MimicMotionSample", "inputs": {"model": ["3", 0], "aligned": ["6", 0]}},
        "8": {"class_type": "MimicMotionDecode", "inputs": {"model": ["3", 0], "latents": ["7", 0]}},
        "9": {"class_type": "MimicMotionSave", "inputs": {"images": ["8", 0], "fps": ["5", 1]}},
    },
}
"""The workflows in API format; settings left out have their defaults."""
COMFYUI = {
    "LoadImage": ([("image", "COMBO", "person.png")], ["IMAGE", "MASK"]),
    "LoadVideo": ([("file", "COMBO", "dance.mp4")], ["VIDEO"]),
}
"""Widgets and outputs of ComfyUI's own nodes."""
UPLOADS = "image"
"""Value of the button that uploads a file."""
WIDTH, GAP, ROW, HEAD, PREVIEW = 300, 90, 24, 10, 220
"""Sizes in pixels; ComfyUI shows the chosen picture or video below the widgets."""
COLOURS = {"IMAGE": "#64b5f6", "VIDEO": "#ff8a65", "FLOAT": "#aed581", "MASK": "#81c784", "SIGMAS": "#cdffcd"}


@cache
def schemas() -> dict[str, tuple[list[tuple[str, str]], list[tuple[str, str, Any]], list[tuple[str, str]]]]:
    """Sockets, widgets (with their defaults) and outputs of each node, by its id."""
    sys.path.insert(0, str(ROOT / "tests"))
    from comfy_stand_ins import ComfyUI

    with tempfile.TemporaryDirectory() as folder:
        nodes = ComfyUI(Path(folder)).nodes
    found = {name: ([], widgets, [(o, o) for o in outputs]) for name, (widgets, outputs) in COMFYUI.items()}
    for name, node in nodes.items():
        schema = node.define_schema()
        sockets = [(i.id, i.get_io_type()) for i in schema.inputs if not i.is_widget]
        widgets = [(i.id, i.get_io_type(), i.facts["default"]) for i in schema.inputs if i.is_widget]
        found[name] = (sockets, widgets, [(o.display_name, o.io_type) for o in schema.outputs])
    return found


def graph(workflow: dict[str, Any]) -> dict[str, Any]:
    """Convert a workflow to the format that ComfyUI's web page saves."""
    links: list[list[Any]] = []
    nodes: dict[str, dict[str, Any]] = {}
    places = layout(workflow)
    for order, (number, node) in enumerate(workflow.items()):
        kind, given = node["class_type"], node["inputs"]
        sockets, widgets, outputs = schemas()[kind]
        inputs: list[dict[str, Any]] = [{"name": n, "type": t, "link": None} for n, t in sockets]
        inputs += [
            {"name": n, "type": t, "widget": {"name": n}, "link": None}
            for n, t, _ in widgets
            if isinstance(given.get(n), list)
        ]
        for slot, entry in enumerate(inputs):
            if isinstance(link := given.get(entry["name"]), list):
                entry["link"] = len(links) + 1
                type_ = schemas()[workflow[link[0]]["class_type"]][2][link[1]][1]
                links.append([entry["link"], int(link[0]), link[1], int(number), slot, type_])
        values = []
        for name, _, default in widgets:
            values.append(default if isinstance(given.get(name, default), list) else given.get(name, default))
            values += ["fixed"] if name == "seed" else [UPLOADS] if kind in COMFYUI else []
        x, y, height = places[number]
        nodes[number] = {
            "id": int(number),
            "type": kind,
            "pos": [x, y],
            "size": [WIDTH, height],
            "flags": {},
            "order": order,
            "mode": 0,
            "inputs": inputs,
            "outputs": [{"name": n, "type": t, "links": []} for n, t in outputs],
            "properties": {"Node name for S&R": kind},
            "widgets_values": values,
        }
    for number, start, slot, *_ in links:
        nodes[str(start)]["outputs"][slot]["links"].append(number)
    return {
        "last_node_id": max(map(int, nodes)),
        "last_link_id": len(links),
        "nodes": list(nodes.values()),
        "links": links,
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def layout(workflow: dict[str, Any]) -> dict[str, tuple[int, int, int]]:
    """Left, top and height of each node, placed one column to the right of the nodes that it depends on."""
    columns: dict[str, int] = {}
    bottoms: dict[int, int] = {}
    places = {}
    for number, node in workflow.items():
        needs = [columns[v[0]] for v in node["inputs"].values() if isinstance(v, list)]
        column = columns[number] = max(needs, default=-1) + 1
        sockets, widgets, outputs = schemas()[node["class_type"]]
        rows = max(len(sockets), len(outputs)) + len(widgets) + (node["class_type"] in COMFYUI)
        top = bottoms.get(column, 0)
        preview = PREVIEW if node["class_type"] in COMFYUI else 0
        places[number] = (column * (WIDTH + GAP), top, HEAD + rows * ROW + preview)
        bottoms[column] = top + places[number][2] + 60
    return places


def files() -> dict[str, str]:
    """Path (relative to the nodes) and text of each file; ComfyUI lists example_workflows among its templates."""
    found = {}
    for name, workflow in WORKFLOWS.items():
        found[f"example_workflows/{name}.json"] = json.dumps(graph(workflow), indent=1) + "\n"
        found[f"api_workflows/{name}.json"] = json.dumps(workflow, indent=1) + "\n"
    return found


def draw(workflow: dict[str, Any], path: Path, dpi: int = 150) -> None:
    """Draw a picture of a workflow."""
    data = graph(workflow)
    nodes = {n["id"]: n for n in data["nodes"]}
    right = max(n["pos"][0] for n in data["nodes"]) + WIDTH
    bottom = max(n["pos"][1] + n["size"][1] for n in data["nodes"])
    figure = plt.figure(figsize=((right + 60) / 150, (bottom + 90) / 150), dpi=dpi, facecolor="#202020")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-30, right + 30), ylim=(bottom + 30, -60))
    axes.axis("off")
    text = {"fontsize": 6.5, "color": "#dddddd", "va": "center", "family": "DejaVu Sans"}

    def spot(node: dict[str, Any], slot: int, out: bool) -> tuple[float, float]:
        widgets = [w for w, *_ in schemas()[node["type"]][1]]
        x, y = node["pos"]
        if not out and "widget" in node["inputs"][slot]:
            row = offset(node) + widgets.index(node["inputs"][slot]["name"])
        else:
            row = slot
        return x + WIDTH * out, y + HEAD + (row + 0.5) * ROW

    def offset(node: dict[str, Any]) -> int:
        sockets, _, outputs = schemas()[node["type"]]
        return max(len(sockets), len(outputs))

    for node in data["nodes"]:
        (x, y), (width, height) = node["pos"], node["size"]
        box = {"boxstyle": "round,pad=0,rounding_size=8", "linewidth": 0}
        axes.add_patch(FancyBboxPatch((x, y), width, height, facecolor="#353535", **box))
        axes.add_patch(FancyBboxPatch((x, y - 28), width, 28, facecolor="#4a4a4a", **box))
        axes.text(x + 10, y - 14, node["type"].replace("MimicMotion", "MimicMotion "), **{**text, "fontsize": 7.5})
        for slot, entry in enumerate(node["inputs"]):
            if "widget" not in entry:
                axes.text(x + 14, spot(node, slot, False)[1], entry["name"], **text)
        for slot, entry in enumerate(node["outputs"]):
            axes.text(x + width - 14, spot(node, slot, True)[1], entry["name"], ha="right", **text)
        for row, (name, _, default) in enumerate(schemas()[node["type"]][1]):
            middle = y + HEAD + (offset(node) + row + 0.5) * ROW
            axes.add_patch(FancyBboxPatch((x + 10, middle - 9), width - 20, 18, facecolor="#222222", **box))
            axes.text(x + 18, middle, name, **{**text, "color": "#999999"})
            axes.text(
                x + width - 18,
                middle,
                str(default).lower() if isinstance(default, bool) else str(default),
                ha="right",
                **text,
            )
    for _, start, slot, end, place, kind in data["links"]:
        (x0, y0), (x1, y1) = spot(nodes[start], slot, True), spot(nodes[end], place, False)
        reach = max(40, abs(x1 - x0) / 3)
        line = Line([(x0, y0), (x0 + reach, y0), (x1 - reach, y1), (x1, y1)], [1, 4, 4, 4])
        colour = COLOURS.get(kind, "#b39ddb")
        axes.add_patch(PathPatch(line, facecolor="none", edgecolor=colour, linewidth=1.6, zorder=0.5))
        axes.plot([x0, x1], [y0, y1], "o", color=colour, markersize=3.5)
    figure.savefig(path, metadata={"Software": None} if path.suffix == ".png" else None)
    plt.close(figure)


def main() -> None:
    for name, text in files().items():
        (NODES / name).parent.mkdir(exist_ok=True)
        (NODES / name).write_text(text, encoding="utf-8")
    draw(WORKFLOWS["steps"], PICTURE)
    for name, workflow in WORKFLOWS.items():
        draw(workflow, NODES / "example_workflows" / f"{name}.jpg", dpi=60)


if __name__ == "__main__":
    main()
