"""One step in one flow with Prefect, from nothing: what `swath run` of one step is held against."""
from prefect import flow, task


@task
def nothing():
    return 1


@flow
def one():
    return nothing()


one()
