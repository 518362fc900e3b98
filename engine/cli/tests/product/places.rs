//! More runs than a server drives at a time.

use std::time::{Duration, Instant};

use swath_control::v1;
use swath_control::v1::run_service_client::RunServiceClient;
use swath_control::v1::system_service_client::SystemServiceClient;
use tonic::transport::Channel;

use crate::common::{Place, signal};
use crate::serve::{Serving, state_of, watched};

/// Its steps end when there is a file `go`.
const FLOW: &str = "flow: waits
steps:
  begin:
    task: run.command
    needs: { cpu: 0 }
    with:
      command: [sh, -c, 'echo $1 >> begun; until [ -e go ]; do sleep 0.02; done', sh, x]
      purity: effect
";

type Runs = RunServiceClient<Channel>;

async fn start(runs: &mut Runs, place: &Place) -> String {
    let flow = FLOW.replace("begun", &place.path().join("begun").display().to_string());
    let request = v1::StartRunRequest {
        flow_text: flow.replace("-e go", &format!("-e {}", place.path().join("go").display())),
        source: place.path().join("flow.yaml").display().to_string(),
        ..Default::default()
    };
    runs.start_run(request).await.unwrap().into_inner().run.unwrap().id
}

async fn begun(place: &Place, count: usize) {
    let began = Instant::now();
    loop {
        let text = std::fs::read_to_string(place.path().join("begun")).unwrap_or_default();
        if text.lines().count() == count {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(300), "{count} are to begin: {text:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn info(serving: &Serving) -> v1::GetInfoResponse {
    let mut system = SystemServiceClient::new(serving.channel().await);
    system.get_info(v1::GetInfoRequest {}).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_beyond_those_a_server_drives_wait_their_turn_and_outlive_it() {
    let place = Place::new(FLOW);
    let mut serving = Serving::start(&place, &["--max-runs", "2"]);
    let mut runs = RunServiceClient::new(serving.channel().await);
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(start(&mut runs, &place).await);
    }
    begun(&place, 2).await;
    let told = info(&serving).await;
    assert_eq!((told.live_runs, told.waiting_runs), (2, 4));
    assert_eq!(state_of(&mut runs, &ids[5]).await, v1::RunState::Pending);

    let request = v1::ExplainStepRequest { run_id: ids[4].clone(), step: "begin".to_owned() };
    let told = runs.explain_step(request).await.unwrap().into_inner();
    let words: Vec<&str> = told.waits_for.iter().map(|wait| wait.words.as_str()).collect();
    let place_in_line = "waits for a place: the server drives 2 runs at a time, and 2 more are before this one";
    assert_eq!(words[0], place_in_line, "{told:?}");

    // One that waits is cancelled at once, and one that is paused does not take a place.
    runs.cancel_run(v1::CancelRunRequest { id: ids[5].clone() }).await.unwrap();
    assert_eq!(state_of(&mut runs, &ids[5]).await, v1::RunState::Cancelled);
    runs.pause_run(v1::PauseRunRequest { id: ids[2].clone() }).await.unwrap();

    signal(&serving.child, "KILL");
    serving.ends(Duration::from_secs(5));
    let serving = Serving::start(&place, &["--max-runs", "2"]);
    let mut runs = RunServiceClient::new(serving.channel().await);
    assert_eq!(serving.adopted, 2);
    begun(&place, 4).await;
    std::fs::write(place.path().join("go"), "").unwrap();
    for id in [&ids[0], &ids[1], &ids[3], &ids[4]] {
        watched(&mut runs, id, 0).await;
        assert_eq!(state_of(&mut runs, id).await, v1::RunState::Completed);
    }
    assert_eq!(state_of(&mut runs, &ids[2]).await, v1::RunState::Paused);
    runs.resume_run(v1::ResumeRunRequest { id: ids[2].clone() }).await.unwrap();
    watched(&mut runs, &ids[2], 0).await;
    assert_eq!(state_of(&mut runs, &ids[2]).await, v1::RunState::Completed);
    // Its end is told before its place is free.
    let began = Instant::now();
    while info(&serving).await.live_runs > 0 {
        assert!(began.elapsed() < Duration::from_secs(60), "no run is left");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(info(&serving).await.waiting_runs, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_paused_gives_its_place_to_the_next() {
    let place = Place::new(FLOW);
    let serving = Serving::start(&place, &["--max-runs", "1"]);
    let mut runs = RunServiceClient::new(serving.channel().await);
    let (first, next) = (start(&mut runs, &place).await, start(&mut runs, &place).await);
    begun(&place, 1).await;
    assert_eq!(info(&serving).await.waiting_runs, 1);
    runs.pause_run(v1::PauseRunRequest { id: first.clone() }).await.unwrap();
    assert_eq!(state_of(&mut runs, &first).await, v1::RunState::Paused);
    begun(&place, 2).await;
    std::fs::write(place.path().join("go"), "").unwrap();
    watched(&mut runs, &next, 0).await;
    assert_eq!(state_of(&mut runs, &next).await, v1::RunState::Completed);
    runs.resume_run(v1::ResumeRunRequest { id: first.clone() }).await.ok();
    watched(&mut runs, &first, 0).await;
    assert_eq!(state_of(&mut runs, &first).await, v1::RunState::Completed);
}
