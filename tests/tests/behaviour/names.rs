//! Names of clients: `name`, `lookup`, and rule 4.3's other half. Each test has names of its own, since there is one
//! registry in the process.

use parley_proto::codec::Frame;
use parley_proto::driver::{Client, JoinError, LookupError, Setup, StartError, lookup};
use parley_proto::session::{ClientOptions, ClientState};
use parley_proto::{SendError, StopReason};
use parley_tests::sim::{Probe, Reply, Sim};

use crate::common::{addr, connected_with, finish, options, secs};

fn named(name: &str) -> ClientOptions {
    let mut options = options();
    options.name = Some(name.into());
    options
}

#[test]
fn a_client_is_found_by_its_name_until_it_ends() {
    Sim::new().run(async |sim| {
        assert_eq!(lookup::<String>("found").unwrap_err(), LookupError::NotFound);
        let (client, mut peer, _) = connected_with(&sim, named("found"), Probe::new(&sim)).await;
        let found = lookup::<String>("found").unwrap();
        found.send_info("by name".into()).await.unwrap();
        sim.noted("handle_info by name").await;
        found.stop().await;
        finish(&mut peer, 1000).await;
        found.wait_for(ClientState::Stopped).await.unwrap();
        assert_eq!(
            lookup::<String>("found").unwrap_err(),
            LookupError::NotFound,
            "free before anybody hears of the end"
        );
        client.join().await.unwrap();
        let stale = found.send_frame(Frame::text("x")).await;
        assert!(matches!(stale, Err(SendError::Stopped(_))));
    });
}

#[test]
fn another_type_of_info_is_told_from_no_client() {
    Sim::new().run(async |sim| {
        let (_client, _peer, _) = connected_with(&sim, named("typed"), Probe::new(&sim)).await;
        assert_eq!(lookup::<u8>("typed").unwrap_err(), LookupError::OtherInfo);
    });
}

#[test]
fn a_name_in_use_is_an_error_of_start_and_of_runs_first_poll() {
    Sim::new().run(async |sim| {
        let (_client, _peer, _) = connected_with(&sim, named("twice"), Probe::new(&sim)).await;
        let again: Result<Client<Probe, String>, _> = sim.start(named("twice"), Probe::new(&sim)).await;
        assert!(matches!(again.unwrap_err(), StartError::NameInUse));
        let run = Setup::<String>::new(named("twice")).run(sim.runtime(), Probe::new(&sim));
        let error: JoinError<Probe> = run.await.unwrap_err();
        assert!(matches!(error.reason(), StopReason::NameInUse));
        assert!(error.into_handler().is_some());
        assert!(lookup::<String>("twice").is_ok(), "the first one keeps it");
        assert_eq!(sim.calls().iter().filter(|line| line.contains("init")).count(), 1);
    });
}

#[test]
fn a_name_is_free_after_a_panic_and_after_the_future_was_dropped() {
    Sim::new().run(async |sim| {
        let probe = Probe::new(&sim).on("handle_info", Reply::Panic);
        let (client, mut peer, _) = connected_with(&sim, named("panics"), probe).await;
        client.send_info("now".into()).await.unwrap();
        finish(&mut peer, 1011).await;
        assert!(matches!(client.join().await.unwrap_err().reason(), StopReason::Panicked));
        assert_eq!(lookup::<String>("panics").unwrap_err(), LookupError::NotFound);

        let _listener = sim.listen(addr());
        let life = Setup::<String>::new(named("panics")).run(sim.runtime(), Probe::new(&sim));
        let task = sim.spawn(life);
        sim.settle().await;
        assert!(lookup::<String>("panics").is_ok());
        task.cancel();
        sim.settle().await;
        assert_eq!(lookup::<String>("panics").unwrap_err(), LookupError::NotFound);
    });
}

#[test]
fn rule_4_3_a_client_with_a_name_lives_on_without_a_handle() {
    Sim::new().run(async |sim| {
        let (client, mut peer, listener) = connected_with(&sim, named("lives"), Probe::new(&sim)).await;
        drop(client);
        peer.shutdown().await;
        sim.noted("handle_disconnect").await;
        sim.sleep(secs(3600)).await;
        let found = lookup::<String>("lives").unwrap();
        found.connect().await;
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        found.wait_for(ClientState::Connected).await.unwrap();
        found.stop().await;
        finish(&mut peer, 1000).await;
        found.wait_for(ClientState::Stopped).await.unwrap();
    });
}
