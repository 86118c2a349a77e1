//! The snippets of the guide's pages, as tests: here are the adapters that they are written for.

macro_rules! pages {
    ($($name:ident $file:literal)*) => {
        $(
            #[doc = include_str!($file)]
            pub mod $name {}
        )*
    };
}

pages! {
    getting_started "../../parley-proto/src/guide/getting_started.md"
    handlers "../../parley-proto/src/guide/handlers.md"
    reconnecting "../../parley-proto/src/guide/reconnecting.md"
    backpressure "../../parley-proto/src/guide/backpressure.md"
    closing "../../parley-proto/src/guide/closing.md"
    tls "../../parley-proto/src/guide/tls.md"
    servers "../../parley-proto/src/guide/servers.md"
    testing "../../parley-proto/src/guide/testing.md"
    telemetry "../../parley-proto/src/guide/telemetry.md"
    limits "../../parley-proto/src/guide/limits.md"
    from_tungstenite "../../parley-proto/src/guide/from_tungstenite.md"
    from_elixir "../../parley-proto/src/guide/from_elixir.md"
    adapter "../../parley-proto/src/guide/adapter.md"
}
