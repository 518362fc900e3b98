"""Drives a recurring scan over gRPC, as `swath deploy`, `deployments`, `logs -f`, `cancel` and `retry` do.

    pip install grpcio-tools
    python -m grpc_tools.protoc -I engine/control/proto --python_out=client --grpc_python_out=client \\
        engine/control/proto/swath/v1/*.proto          # `client` is a folder that there is
    PYTHONPATH=client python docs/examples/python/scan.py 127.0.0.1:7475 flows/scan.yaml results/scan

A server that asks for tokens gets one from SWATH_TOKEN; TLS is `grpc.secure_channel` in the place of `insecure_channel`.
"""

import os
import sys
import time
from pathlib import Path

import grpc
from swath.v1 import deployment_service_pb2 as deployments_pb
from swath.v1 import run_service_pb2 as runs_pb
from swath.v1.deployment_service_pb2_grpc import DeploymentServiceStub
from swath.v1.run_service_pb2_grpc import RunServiceStub


def main(address: str, flow: Path, results: Path) -> None:
    token = os.environ.get("SWATH_TOKEN")
    metadata = [("authorization", f"Bearer {token}")] if token else None
    flow_of = {"flow_text": flow.read_text(), "source": str(flow.resolve())}
    flow_of["parameters"] = {"results": str(results.resolve()), "reach": "P20Y"}
    with grpc.insecure_channel(address) as channel:
        deployments, runs = DeploymentServiceStub(channel), RunServiceStub(channel)
        deployed = deployments.DeployFlow(
            deployments_pb.DeployFlowRequest(name="scan-from-python", **flow_of), metadata=metadata
        ).deployment
        print(f"deployed   {deployed.name}, version {deployed.version}")

        due = deployments.ListNextFires(deployments_pb.ListNextFiresRequest(name=deployed.name, count=3), metadata=metadata)
        for fire in due.fires:
            print(f"due        {fire.ToJsonString()}")

        # A look that is ended soon, and then gone on with. Each look covers the time since the one before: the last cron
        # time, unless told otherwise; an interval of its own makes this one cover the imagery that ships.
        run = runs.StartRun(
            runs_pb.StartRunRequest(interval="2017-02-01T00:00:00Z/2017-03-01T00:00:00Z", **flow_of), metadata=metadata
        ).run
        run = runs.CancelRun(runs_pb.CancelRunRequest(id=run.id), metadata=metadata).run
        print(f"cancelled  {ended(runs, run, metadata)}")
        run = runs.ResumeRun(runs_pb.ResumeRunRequest(id=run.id), metadata=metadata).run
        print(f"retried    {ended(runs, run, metadata)}")

        triggered = deployments.TriggerDeployment(
            deployments_pb.TriggerDeploymentRequest(name=deployed.name), metadata=metadata
        ).fire
        run = run_of(deployments, deployed.name, triggered.key, metadata)
        for line in runs.ReadLogs(runs_pb.ReadLogsRequest(run_id=run, follow=True), metadata=metadata):
            print(f"log        {line.step}: {line.message}")
        told = runs.GetRun(runs_pb.GetRunRequest(id=run), metadata=metadata)
        print(f"triggered  {runs_pb.RunState.Name(told.run.state)} {told.outputs_json}")


def ended(runs: RunServiceStub, run: runs_pb.Run, metadata) -> str:
    """The state in which a run ends: its events are watched until there are no more."""
    for _ in runs.WatchRun(runs_pb.WatchRunRequest(id=run.id, after=run.last_event), metadata=metadata):
        pass
    return runs_pb.RunState.Name(runs.GetRun(runs_pb.GetRunRequest(id=run.id), metadata=metadata).run.state)


def run_of(deployments: DeploymentServiceStub, name: str, key: str, metadata) -> str:
    """The run of an occasion, once it has one."""
    while True:
        told = deployments.GetDeployment(deployments_pb.GetDeploymentRequest(name=name), metadata=metadata)
        fire = next(fire for fire in told.fires if fire.key == key)
        if fire.run_id:
            return fire.run_id
        if fire.state in ("skipped", "refused"):
            sys.exit(f"no run: {fire.note}")
        time.sleep(0.1)


if __name__ == "__main__":
    address, flow, results = sys.argv[1:]
    main(address, Path(flow), Path(results))
