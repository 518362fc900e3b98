"""Drives a run over gRPC as somebody else's program would: messages generated from the .proto, and grpcio.

    serve.py ADDRESS PROTO FOLDER
"""
import json, sys, tempfile
import grpc
from grpc_tools import protoc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from importlib.resources import files

address, proto, folder = sys.argv[1:]
out = tempfile.mkdtemp()
names = [f"swath/v1/{n}_service.proto" for n in ("flow", "run", "system", "task")]
well_known = str(files("grpc_tools") / "_proto")
assert protoc.main(["protoc", f"-I{proto}", f"-I{well_known}", f"--python_out={out}", f"--grpc_python_out={out}", *names]) == 0
sys.path.insert(0, out)
from swath.v1 import run_service_pb2 as pb, run_service_pb2_grpc as rpc

channel = grpc.insecure_channel(address)
services = ProtoReflectionDescriptorDatabase(channel).get_services()
assert "swath.v1.RunService" in services and "grpc.health.v1.Health" in services, services
health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="swath.v1.RunService"))
assert health.status == health_pb2.HealthCheckResponse.SERVING

runs = rpc.RunServiceStub(channel)
text = open(f"{folder}/flow.yaml").read()
start = pb.StartRunRequest(flow_text=text, source=f"{folder}/flow.yaml", parameters={"word": "servus"}, idempotency_key="py")
run = runs.StartRun(start).run
events = [answer.event for answer in runs.WatchRun(pb.WatchRunRequest(id=run.id))]
assert [event.number for event in events] == list(range(1, len(events) + 1))
told = runs.GetRun(pb.GetRunRequest(id=run.id))
assert told.run.state == pb.RUN_STATE_COMPLETED and json.loads(told.outputs_json) == {"word": "servus"}, told
assert not runs.StartRun(start).started
assert any(line.message == "told: servus" for line in runs.ReadLogs(pb.ReadLogsRequest(run_id=run.id, follow=True)))
try:
    runs.GetRun(pb.GetRunRequest(id="nobody"))
    raise SystemExit("a run that there is not")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.NOT_FOUND, error
print("driven")
