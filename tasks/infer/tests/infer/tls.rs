//! TLS with certificates on both sides: of Triton's gRPC itself, and of a proxy before its REST interface, which has none.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use swath_testkit::triton::Triton;

use crate::relay::Relay;
use crate::servers::{ONE, TRITON, fault, on, served};
use crate::support::{Bench, input};

/// A root, certificates of a server and a client, and another root.
const CERTIFICATES: &str = r#"
for root in ca stranger; do
    openssl req -x509 -newkey rsa:2048 -nodes -keyout $root.key -out $root.pem -days 2 -subj /CN=$root 2>/dev/null
done
for name in server client; do
    openssl req -newkey rsa:2048 -nodes -keyout $name.key -out $name.csr -subj /CN=$name 2>/dev/null
    printf 'subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n' >$name.ext
    openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out $name.pem -days 2 -extfile $name.ext 2>/dev/null
done"#;

fn make_certificates(folder: &Path) {
    let made = Command::new("sh").arg("-ec").arg(CERTIFICATES).current_dir(folder).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

#[tokio::test]
async fn tls_of_grpc_lets_in_who_is_known_and_tells_who_is_not() {
    let folder = tempfile::tempdir().unwrap();
    make_certificates(folder.path());
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (models, network) = (folder.path().join("models"), input("identity.onnx"));
    served("identity", &network, ONE, "max_batch_size: 4").write(&models);
    let options = [
        "--grpc-use-ssl-mutual=true".to_owned(),
        format!("--grpc-server-cert={}", file("server.pem")),
        format!("--grpc-server-key={}", file("server.key")),
        format!("--grpc-root-cert={}", file("ca.pem")),
    ];
    let triton = Triton::start(&models, &options.each_ref().map(String::as_str));
    let port = triton.grpc().rsplit_once(':').unwrap().1.parse().unwrap();
    known_and_unknown("grpcs", port, folder.path()).await;
}

#[tokio::test]
async fn tls_of_rest_lets_in_who_is_known_and_tells_who_is_not() {
    let folder = tempfile::tempdir().unwrap();
    make_certificates(folder.path());
    let [certificate, key, clients] = ["server.pem", "server.key", "ca.pem"].map(|name| folder.path().join(name));
    let relay = Relay::ending_tls(&TRITON.http(), [&certificate, &key, &clients]);
    known_and_unknown("https", relay.port(), folder.path()).await;
}

/// A client of a server with these certificates, which wants one of its clients.
async fn known_and_unknown(scheme: &str, port: u16, folder: &Path) {
    let bench = Bench::new();
    let model = bench.model("identity", |_| {});
    let file = |name: &str| folder.join(name).display().to_string();
    let with = |host: &str, tls: Value| {
        let url = format!("{scheme}://{host}:{port}");
        let mut with = on(&url, &model, json!({ "overlap": 16, "triton": { "patience": 2 } }));
        tls.as_object().unwrap().iter().for_each(|(key, value)| with["triton"][key] = value.clone());
        with
    };
    let known = json!({ "ca": file("ca.pem"), "certificate": file("client.pem"), "key": file("client.key") });
    let (_, tiles) = bench.run(with("localhost", known.clone()), "one").await.unwrap();
    assert_eq!(tiles, 9);
    // Its certificate is of nobody that the machine trusts, or of nobody that the step trusts: not a matter of waiting.
    let mut stranger = known.clone();
    stranger["ca"] = json!(file("stranger.pem"));
    for tls in [json!({}), stranger] {
        let (told, transient) = fault(&bench, with("localhost", tls.clone()), "one").await;
        assert!(told.code == "M126" && !transient && told.message.contains("certificate"), "{scheme} {tls}: {told}");
    }
    // It is the certificate of another name.
    let (told, transient) = fault(&bench, with("127.0.0.1", known), "one").await;
    assert!(told.code == "M126" && !transient && told.message.contains("certificate"), "{scheme}: {told}");
    // Without a certificate of its own the client is not let in.
    let (told, _) = fault(&bench, with("localhost", json!({ "ca": file("ca.pem") })), "one").await;
    assert!(["M120", "M126"].contains(&&*told.code), "{scheme}: {told}");
    let half = json!({ "ca": file("ca.pem"), "key": file("client.key") });
    let (told, _) = fault(&bench, with("localhost", half), "one").await;
    assert!(told.code == "M126" && told.message.contains("without the other"), "{scheme}: {told}");
    // Speaking plainly to it is no way in either.
    let plain = scheme.strip_suffix('s').unwrap();
    let url = format!("{plain}://localhost:{port}");
    let (told, _) = fault(&bench, on(&url, &model, json!({ "overlap": 16, "triton": { "patience": 1 } })), "one").await;
    assert!(told.code.starts_with("M12"), "{plain}: {told}");
}
