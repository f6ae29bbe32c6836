"""From models to a page that is being served: everything slow happens while the page is already there."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from lora_deploy.artifact.bundle import EXAMPLE
from lora_deploy.clips.pool import DecodePool
from lora_deploy.demo.answers import Studio
from lora_deploy.demo.examples import Example, draw_examples, read_examples
from lora_deploy.demo.models import Choices
from lora_deploy.demo.settings import DemoSettings
from lora_deploy.demo.uploads import settle
from lora_deploy.errors import LoraDeployError


def run_demo(
    models: Sequence[Path],
    settings: DemoSettings,
    *,
    examples: Path | None = None,
    most_opened: int = 2,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve the page until Ctrl-C or SIGTERM.

    Args:
        models: RUN and BUNDLE folders; none is the example bundle.
        settings: Where, for whom, and how much.
        examples: A folder of clips to try; for the example bundle, gestures are drawn.
        most_opened: Forms that are kept in memory at once.
        ready: Called with the address when the page can be asked for.

    Raises:
        ArtifactError: A folder is no model.
        DemoError: It can't be served there.
    """
    choices = Choices(models or [EXAMPLE], most_opened=most_opened)
    with DecodePool() as pool, TemporaryDirectory() as folder, ThreadPoolExecutor(2) as meanwhile:

        def find() -> tuple[Example, ...]:
            if examples is not None:
                return read_examples(examples, pool)
            return draw_examples(Path(folder), pool) if not models else ()

        def warm() -> None:
            with suppress(LoraDeployError):  # whoever asks for it is told
                choices.open(choices.default.name)

        found = meanwhile.submit(find)
        meanwhile.submit(warm)
        settle()  # before Gradio is imported, which then looks where its files belong
        # Gradio takes seconds to import; the two above go on beside it.
        from lora_deploy.demo.page import make_page
        from lora_deploy.demo.server import in_a_loop, serve
        from lora_deploy.web.watch import Watch

        watch = Watch()
        has_examples = examples is not None or not models
        studio = Studio(choices, pool)
        given = found.result if has_examples else None
        page = in_a_loop(lambda: make_page(studio, settings, watch, examples=given))
        serve(page, settings, watch, ready=ready)
