//! What `tracing` is told of a client's life: names and fields, as `parley_proto::telemetry` lists them.
#![allow(clippy::unwrap_used, reason = "in the helpers of tests as in the tests")]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use parley_proto::codec::{CloseFrame, Frame};
use parley_proto::driver::WebSocket;
use parley_proto::session::{ClientOptions, Reconnect};
use parley_proto::{Action, BoxError, Connected, Handler};
use parley_tests::raw;
use parley_tests::sim::Sim;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// One event or span: its level, name, fields, and the span around it.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    level: Level,
    name: String,
    fields: BTreeMap<String, String>,
    inside: Option<String>,
}

#[derive(Clone, Default)]
struct Ear(Arc<Mutex<Heard>>);

#[derive(Default)]
struct Heard {
    told: Vec<Told>,
    spans: Vec<String>,
    inside: Vec<usize>,
}

struct Fields<'a>(&'a mut BTreeMap<String, String>);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }
}

impl Subscriber for Ear {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "parley"
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut heard = self.0.lock().unwrap();
        heard.spans.push(span.metadata().name().to_owned());
        let mut fields = BTreeMap::new();
        span.record(&mut Fields(&mut fields));
        let (level, name) = (*span.metadata().level(), span.metadata().name().to_owned());
        heard.told.push(Told { level, name, fields, inside: None });
        Id::from_u64(heard.spans.len() as u64)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut heard = self.0.lock().unwrap();
        let mut fields = BTreeMap::new();
        event.record(&mut Fields(&mut fields));
        let inside = heard.inside.last().map(|&span| heard.spans[span].clone());
        let (level, name) = (*event.metadata().level(), event.metadata().name().to_owned());
        assert_eq!(fields.remove("message"), Some(name.clone()), "for subscribers that print no names");
        heard.told.push(Told { level, name, fields, inside });
    }

    fn enter(&self, span: &Id) {
        self.0.lock().unwrap().inside.push(span.into_u64() as usize - 1);
    }

    fn exit(&self, _: &Id) {
        self.0.lock().unwrap().inside.pop();
    }
}

impl Ear {
    fn told(&self, name: &str) -> Vec<Told> {
        self.0.lock().unwrap().told.iter().filter(|told| told.name == name).cloned().collect()
    }

    fn names(&self) -> Vec<String> {
        self.0.lock().unwrap().told.iter().map(|told| told.name.clone()).collect()
    }
}

impl Told {
    fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    fn number(&self, name: &str) -> u64 {
        self.field(name).parse().unwrap()
    }
}

struct Secretive;

impl Handler for Secretive {
    async fn handle_connect(&mut self, _: &Connected) -> Result<Action, BoxError> {
        Ok(Frame::text("hunter-payload").into())
    }
}

#[test]
fn a_whole_life_is_told_under_its_names() {
    let ear = Ear::default();
    tracing::subscriber::with_default(ear.clone(), || {
        Sim::new().run(async |sim| {
            let mut options = ClientOptions::new("ws://hunter:hunter@10.0.0.1/chat?hunter").unwrap();
            options = options.header("authorization", "hunter").unwrap().subprotocol("v1").unwrap();
            options.name = Some("teller".to_owned());
            options.reconnect = Some(Reconnect::default());
            let listener = sim.listen("10.0.0.1:80".parse().unwrap());
            let client = sim.start(options, Secretive).await.unwrap();
            let mut peer = listener.accept().await;
            peer.upgrade("Sec-WebSocket-Protocol: v1\r\n").await;
            peer.frame().await;
            peer.send(&raw::frame(0x81, b"hunter-reply")).await;
            sim.sleep(Duration::from_secs(2)).await;
            peer.send(&raw::frame(0x88, &1012_u16.to_be_bytes())).await;
            peer.frame().await;
            drop(peer);
            let mut peer = listener.accept().await;
            peer.upgrade("Sec-WebSocket-Protocol: v1\r\n").await;
            peer.frame().await;
            client.stop().await;
            peer.frame().await;
            drop(peer);
            client.join().await.unwrap();
        });
    });

    let once = ["parley.client", "attempt", "phase", "phase", "phase", "connected", "disconnected", "retry"];
    let again = ["attempt", "phase", "phase", "phase", "connected", "stopped"];
    assert_eq!(ear.names(), [&once[..], &again].concat());
    let all = ear.0.lock().unwrap().told.clone();
    assert!(all[1..].iter().all(|told| told.inside.as_deref() == Some("parley.client")), "{all:#?}");
    assert!(!format!("{all:?}").contains("hunter"), "{all:#?}");

    let span = &ear.told("parley.client")[0];
    assert_eq!((span.field("role"), span.field("name")), ("client", "teller"));
    let attempts = ear.told("attempt");
    assert_eq!((attempts[0].field("host"), attempts[0].field("port")), ("10.0.0.1", "80"));
    assert_eq!((attempts[1].field("number"), attempts[1].level), ("2", Level::DEBUG));
    let phases: Vec<_> = ear.told("phase").iter().map(|told| told.field("phase").to_owned()).collect();
    assert_eq!(phases, ["prepare", "tcp", "upgrade"].repeat(2));
    let connected = &ear.told("connected")[0];
    assert_eq!((connected.field("status"), connected.field("subprotocol")), ("101", "v1"));
    assert_eq!(connected.field("peer"), "10.0.0.1:80");
    let lost = &ear.told("disconnected")[0];
    assert_eq!((lost.field("code"), lost.field("transient"), lost.level), ("1012", "true", Level::INFO));
    assert_eq!((lost.number("frames_received"), lost.number("frames_sent"), lost.number("queued")), (1, 1, 0));
    assert!(lost.number("lived_us") >= 2_000_000 && lost.number("bytes_sent") > 20, "{lost:?}");
    assert!((500_001..=1_000_000).contains(&ear.told("retry")[0].number("delay_us")));
    assert_eq!(ear.told("stopped")[0].field("reason"), "stopped");
}

#[test]
fn lost_frames_and_the_end_of_a_socket_are_told() {
    let ear = Ear::default();
    tracing::subscriber::with_default(ear.clone(), || {
        Sim::new().run(async |sim| {
            let _listener = sim.listen("10.0.0.1:80".parse().unwrap());
            let options = ClientOptions::new("ws://10.0.0.1/").unwrap();
            let client = sim.start(options, ()).await.unwrap();
            client.try_send_frame(Frame::text("waits for a connection that never comes")).unwrap();
            client.disconnect_with(CloseFrame::normal()).await;
            client.stop().await;
            let _ = client.join().await;
            assert_eq!(ear.told("lost")[0].field("dropped"), "1");
        });

        Sim::new().run(async |sim| {
            let listener = sim.listen("10.0.0.1:80".parse().unwrap());
            let options = ClientOptions::new("ws://10.0.0.1/").unwrap();
            let task = sim.spawn({
                let sim = sim.clone();
                async move { WebSocket::connect(sim.runtime(), sim.runtime(), options).await.unwrap() }
            });
            let mut peer = listener.accept().await;
            peer.upgrade("").await;
            let mut socket = task.await;
            peer.send(&raw::frame(0x88, &1001_u16.to_be_bytes())).await;
            let end = sim.spawn(async move { socket.next().await.is_none() });
            peer.frame().await;
            drop(peer);
            assert!(end.await);
        });
    });
    let closed = &ear.told("closed")[0];
    assert_eq!((closed.field("code"), closed.field("clean"), closed.field("error")), ("1001", "true", ""));
}
