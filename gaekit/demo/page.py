"""The page, laid out with gradio; imported when it is served, after the server has set gradio's environment."""

from __future__ import annotations

import base64
import io
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import ImageData
from PIL.Image import Image

from gaekit.demo import actions
from gaekit.demo.actions import GAIN, Asked, Sampling
from gaekit.errors import GaekitError
from gaekit.runs.opened import OnStep, OpenRun

logger = logging.getLogger(__name__)
LANE = "run"
"""All that uses the networks waits in one line, whoever asked: one thing is made at a time."""
SMALL = 128
"""Pixels of a side below which they are shown as squares, not blurred."""
FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace"]
NOTHING = '<p class="note">Drop an image, choose one or paste one.</p>'
STYLE = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Page:
    """The page, and what it is launched with: theme and style."""

    blocks: gr.Blocks
    look: dict[str, Any]


def make_page(run: OpenRun, stop: threading.Event) -> Page:
    """The page of a run: samples where it can be sampled, reconstructions. What is being made ends after `stop`.

    Raises GaekitError where the run has no autoencoder that can be used.
    """
    spec = run.autoencoder.spec
    try:
        offer: Sampling | None = actions.offered(run)
        lacking = ""
    except GaekitError as error:
        offer, lacking = None, str(error)
    name = run.recipe.name
    small = ["pixels"] if spec.image_size < SMALL else []
    with gr.Blocks(title=f"{name} · gaekit", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        gr.HTML(_head(run, offer), elem_id="head")
        if offer is None:
            gr.HTML(_notice(f"It makes no new images: {lacking}", "note"))
            _reconstruction(run, small)
        else:
            with gr.Tab("Sample", id="sample"):
                _sampling(run, offer, stop, small)
            with gr.Tab("Reconstruct", id="reconstruct"):
                _reconstruction(run, small)
    theme = gr.themes.Default(primary_hue="blue", neutral_hue="gray", font=FONTS, font_mono=MONO)
    return Page(blocks, {"theme": theme, "css": STYLE})


def _head(run: OpenRun, offer: Sampling | None) -> str:
    spec = run.autoencoder.spec
    facts = [f"{spec.image_size} × {spec.image_size} pixels", f"latents {spec.latent_dim} × {spec.grid} × {spec.grid}"]
    if offer is not None:
        facts.append(f"{len(offer.classes)} classes" if offer.classes else "no classes")
    facts.append(f"computing on {run.machine.device.type.upper()}")
    return f"<h1>{escape(run.recipe.name)}</h1><p>{escape(', '.join(facts))}. Nothing here is written into the run.</p>"


def _notice(text: str, kind: str = "error") -> str:
    return f'<p class="{kind}" role="{"alert" if kind == "error" else "note"}">{escape(text)}</p>' if text else ""


def _answered(work: Callable[[], tuple[Any, ...]], outputs: int) -> tuple[Any, ...]:
    """What the work gave after an empty notice; or a sentence about what is wrong, and the rest left as it was."""
    try:
        return ("", *work())
    except GaekitError as error:
        told = str(error)
    except Exception as error:
        logger.exception("what was asked on the page failed")
        told = f"{type(error).__name__}: {error} (the terminal tells where)"
    return (_notice(told), *[gr.skip()] * outputs)


def _sampling(run: OpenRun, offer: Sampling, stop: threading.Event, small: list[str]) -> None:
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            controls = _controls(offer)
            button = gr.Button("Sample", variant="primary", elem_id="make")
            notice = gr.HTML()
        with gr.Column(scale=5, min_width=320):
            gallery = gr.Gallery(
                label="New images", show_label=False, columns=5, height="auto", object_fit="contain", format="png",
                interactive=False, buttons=["download", "fullscreen"], elem_id="samples", elem_classes=small,
            )  # fmt: skip
            told = gr.HTML(elem_id="told")
    outputs = [notice, gallery, told]

    def make(
        classes: list[int], count: float, steps: float, scale: float, start: float, end: float, seed: float,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 -- gradio finds it by its default
    ) -> tuple[Any, ...]:  # fmt: skip
        asked = Asked(classes or (), count, steps, scale, start, end, seed)
        return _answered(lambda: _sampled(run, offer, asked, _telling(progress, stop)), len(outputs) - 1)

    button.click(
        make, controls, outputs, concurrency_id=LANE, concurrency_limit=1, api_visibility="private",
        show_progress="full", show_progress_on=gallery,
    )  # fmt: skip


def _controls(offer: Sampling) -> list[gr.components.Component]:
    """The fields of `Asked`, in its order; what the run does not offer is not shown."""
    choices = [(name, label) for label, name in enumerate(offer.classes)]
    scale, start, end = offer.guidance or (1.0, 0.0, 1.0)
    steps = offer.steps or 1
    classes = gr.Dropdown(
        choices, value=[], multiselect=True, label="Classes", info="none chosen: all in turn",
        visible=bool(choices), elem_id="classes",
    )  # fmt: skip
    count = gr.Slider(1, actions.MOST_IMAGES, offer.count, step=1, label="Images", elem_id="count")
    shown = offer.steps is not None
    most = min(actions.MOST_STEPS, max(100, 2 * steps))
    sampler = f"of the sampler, {offer.sampler}"
    step = gr.Slider(1, most, steps, step=1, label="Steps", info=sampler, visible=shown, elem_id="steps")
    with gr.Group(visible=offer.guidance is not None):
        guidance = gr.Slider(
            0, min(actions.MOST_SCALE, max(10, 2 * scale)), scale, step=0.1, label="Guidance", info="1 is none",
            elem_id="guidance",
        )  # fmt: skip
        told = "t = 0 is noise, t = 1 the image"
        first = gr.Slider(0, 1, start, step=0.01, label="Guided from", info=told, elem_id="start")
        last = gr.Slider(0, 1, end, step=0.01, label="Guided until", elem_id="end")
    seed = _seed(offer.seed, "seed")
    return [classes, count, step, guidance, first, last, seed]


def _seed(value: int, name: str) -> gr.Slider:
    most = max(999, value)
    return gr.Slider(0, most, value, step=1, label="Seed", info="the same seed, the same noise", elem_id=name)


def _telling(progress: gr.Progress, stop: threading.Event) -> OnStep:
    """Moves the page's bar at each step, and ends what nobody waits for any more."""

    def step(done: int, total: int) -> None:
        if stop.is_set():
            raise GaekitError("the demo was ended")
        progress((done, total), desc="Sampling", unit="steps")

    return step


def _sampled(run: OpenRun, offer: Sampling, asked: Asked, on_step: OnStep) -> tuple[Any, ...]:
    found = actions.sample(run, offer, asked, on_step)
    names = found.pictures.names or [""] * len(found.pictures)
    shown = [(image, name) for image, name in zip(found.pictures, names, strict=True)]
    return shown, f"<p>{escape(found.told)}</p><p>In Python:</p><pre><code>{escape(found.code)}</code></pre>"


def _reconstruction(run: OpenRun, small: list[str]) -> None:
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            file = gr.Image(
                label="An image", type="filepath", image_mode=None, sources=["upload", "clipboard"], height=240,
                buttons=[], elem_id="dropped",
            )  # fmt: skip
            file.preprocess = _path  # the file as it came: gaekit decodes it, by its own rules
            told = "on the latent, in units of its root mean square"
            sigma = gr.Slider(0, 2, 0.5, step=0.01, label="Noise σ", info=told, elem_id="sigma")
            seed = _seed(0, "noise-seed")
        with gr.Column(scale=5, min_width=320):
            shown = gr.HTML(NOTHING, elem_id="rebuilt", elem_classes=small)

    def rebuild(path: str | None, sigma: float, seed: float) -> Any:
        if path is None:
            return NOTHING
        told, *found = _answered(lambda: (_rebuilt(run, Path(path), sigma, seed),), 1)
        return told or found[0]

    gr.on(
        [file.change, sigma.change, seed.change], rebuild, [file, sigma, seed], shown, trigger_mode="always_last",
        concurrency_id=LANE, concurrency_limit=1, api_visibility="private", show_progress="minimal",
    )  # fmt: skip


def _path(payload: ImageData | None) -> str | None:
    """Where an upload lies."""
    return None if payload is None else str(payload.path)


def _rebuilt(run: OpenRun, path: Path, sigma: float, seed: float) -> str:
    """Five pictures in three columns: the original, what is made of it, how that differs."""
    found = actions.reconstruct(run, path, sigma, seed)
    figures = [
        _figure(found.original, "Original, cut to a square and resized as in training"),
        _figure(found.rebuilt, "Reconstruction", found.psnr),
        _figure(found.difference, f"Its difference × {GAIN}, about grey"),
        _figure(found.noisy, f"Latent with noise, σ = {sigma:g}", found.noisy_psnr),
        _figure(found.noisy_difference, f"Its difference × {GAIN}"),
    ]
    return f'<div class="trio">{"".join(figures)}</div>'


def _figure(image: Image, caption: str, psnr: float | None = None) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    told = escape(caption) + ("" if psnr is None else f"<br><b>{psnr:.1f} dB</b>")
    source = base64.b64encode(file.getvalue()).decode()
    picture = f'<img src="data:image/png;base64,{source}" alt="{escape(caption)}">'
    return f"<figure>{picture}<figcaption>{told}</figcaption></figure>"
