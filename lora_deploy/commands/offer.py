"""The command that offers a model to other programs: serve."""

from pathlib import Path

import click

from lora_deploy.options import FOLDER, backend_option, batch_option


@click.command()
@click.argument("model", type=FOLDER)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes any."
)
@backend_option
@batch_option
@click.option("--adapter", help="Run this adapter of a bundle unmerged.")
@click.option(
    "--workers", type=click.IntRange(1, 64), help="Processes that decode; one a core by default."
)
@click.option(
    "--max-upload-mb",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    metavar="MB",
    help="The largest video, in millions of bytes.",
)
@click.option(
    "--queue",
    type=click.IntRange(0, 10_000),
    default=16,
    show_default=True,
    metavar="CLIPS",
    help="Clips that may wait, beside those that are worked on.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(1, 3600),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a clip may wait for a decoder, and how long decoding it may take.",
)
@click.option(
    "--grace",
    type=click.FloatRange(0, 3600),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long what is under way may take when the server is asked to stop.",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file with a token a line; needed where others can reach the service.",
)
@click.option("--without-token", is_flag=True, help="Let everybody ask who reaches the address.")
@click.option(
    "--root-path", default="", help="Where a reverse proxy shows the service, as in /clips."
)
def serve(
    *,
    model: Path,
    host: str,
    port: int,
    backend: str,
    precision: str,
    batch_size: int,
    adapter: str | None,
    workers: int | None,
    max_upload_mb: int,
    queue: int,
    timeout: float,
    grace: float,
    token_file: Path | None,
    without_token: bool,
    root_path: str,
) -> int:
    """Answer other programs over HTTP: a video in, what happens in it out, as JSON.

    MODEL is a BUNDLE, which needs no PyTorch, or a RUN. A video is uploaded; links are not taken.
    """
    from lora_deploy.extras import import_backend

    stage = import_backend(
        "lora_deploy.serve.launch", "fastapi", "uvicorn", "python_multipart", purpose="to serve"
    )
    from lora_deploy.classify.terms import Model
    from lora_deploy.serve.settings import ServeSettings, read_tokens

    settings = ServeSettings(
        host=host,
        port=port,
        tokens=() if token_file is None else read_tokens(token_file),
        without_token=without_token,
        max_upload_bytes=max_upload_mb * 1_000_000,
        queue=queue,
        timeout_seconds=timeout,
        grace_seconds=grace,
        root_path=root_path,
    )
    code: int = stage.run_service(
        Model(model, backend, precision, adapter, batch_size),
        settings,
        workers=workers,
        ready=lambda address: click.echo(f"the service is at {address} (Ctrl-C ends it)"),
    )
    return code
