//! What runs have made, over gRPC: listed, traced to its makers, read in parts.

use swath_control::v1;
use swath_control::v1::artifact_service_client::ArtifactServiceClient;
use swath_task::Digest;
use tonic::Code;
use tonic::transport::Channel;

use crate::common::Place;
use crate::serve::Serving;

async fn read(
    artifacts: &mut ArtifactServiceClient<Channel>,
    digest: &str,
    offset: u64,
) -> Result<(v1::Artifact, Vec<u8>), tonic::Status> {
    let request = v1::ReadArtifactRequest { digest: digest.to_owned(), offset };
    let mut stream = artifacts.read_artifact(request).await?.into_inner();
    let (mut artifact, mut bytes) = (None, Vec::new());
    while let Some(part) = stream.message().await? {
        artifact = artifact.or(part.artifact);
        bytes.extend(part.data);
    }
    Ok((artifact.unwrap(), bytes))
}

#[tokio::test(flavor = "multi_thread")]
async fn artifacts_are_listed_traced_and_read_as_their_digest_says() {
    let catalog = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../flows/data/catalog.json");
    let catalog = catalog.canonicalize().unwrap();
    let flow = format!(
        "flow: find\nsteps: {{ search: {{ task: stac.search, with: {{ catalog: {}, collection: s2-l1c-slovenia }} }} }}\n",
        catalog.display()
    );
    let place = Place::new(&flow);
    for _ in 0..2 {
        let (code, _, told) = place.run(&["run", "flow.yaml"]);
        assert_eq!(code, Some(0), "{told}");
    }
    let (_, runs) = place.json(&["runs"]);
    let run = runs[1]["run"]["id"].as_str().unwrap().to_owned();
    let serving = Serving::start(&place, &[]);
    let mut artifacts = ArtifactServiceClient::new(serving.channel().await);
    let request = v1::ListArtifactsRequest { run_id: run.clone(), step: "search".into() };
    let held = artifacts.list_artifacts(request).await.unwrap().into_inner().artifacts;
    let [one] = held.as_slice() else { panic!("{held:?}") };
    let (scenes, holder) = (one.artifact.clone().unwrap(), one.holder.clone().unwrap());
    assert_eq!((scenes.kind.as_str(), scenes.name.as_str()), ("stac.scenes", "scenes.json"));
    assert_eq!((holder.run_id.as_str(), holder.step.as_str(), holder.attempt), (run.as_str(), "search", 1));

    let (told, bytes) = read(&mut artifacts, &scenes.digest, 0).await.unwrap();
    assert_eq!(told, scenes);
    assert_eq!((bytes.len() as u64, Digest::of(&bytes).to_string()), (scenes.size, scenes.digest.clone()));
    let (_, rest) = read(&mut artifacts, &scenes.digest, 1000).await.unwrap();
    assert_eq!(rest, bytes[1000..]);
    assert!(read(&mut artifacts, &scenes.digest, scenes.size).await.unwrap().1.is_empty());

    let request = v1::GetLineageRequest { digest: scenes.digest.clone() };
    let holders = artifacts.get_lineage(request).await.unwrap().into_inner().holders;
    assert_eq!(holders.iter().map(|one| one.attempt).collect::<Vec<_>>(), [1, 0], "made, then reused");

    let nobody = Digest::of(b"nobody's").to_string();
    for (digest, offset, code) in [
        (scenes.digest.as_str(), scenes.size + 1, Code::InvalidArgument),
        ("blake3:12", 0, Code::InvalidArgument),
        ("../../etc/passwd", 0, Code::InvalidArgument),
        (nobody.as_str(), 0, Code::NotFound),
    ] {
        assert_eq!(read(&mut artifacts, digest, offset).await.unwrap_err().code(), code, "{digest}");
    }
    let request = v1::ListArtifactsRequest { run_id: "nobody".into(), step: String::new() };
    assert_eq!(artifacts.list_artifacts(request).await.unwrap_err().code(), Code::NotFound);
}
