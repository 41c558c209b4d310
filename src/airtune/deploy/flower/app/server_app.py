"""The rounds of experiment.yaml, with the nodes of this federation as clients."""

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from airtune.deploy.flower.serving import serve_flower

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run every round, or go on with a run that was begun."""
    serve_flower(grid, Path(__file__).parents[1] / "experiment.yaml", context.run_config)
