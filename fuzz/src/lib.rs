//! The fuzz targets, as functions of their input: `fuzz_targets/` hands them to libFuzzer, the tests here the corpora.

mod choices;
pub mod client_handshake;
pub mod close;
pub mod connection;
pub mod decoder;
pub mod extensions;
pub mod header;
pub mod input;
pub mod joined;
pub mod naive;
pub mod server_handshake;
pub mod session;
pub mod url;
pub mod utf8;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    fn replay(target: &str, run: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        let mut seeds = 0;
        for entry in fs::read_dir(&folder).expect("the corpus is committed") {
            let path = entry.expect("the corpus can be listed").path();
            println!("{}", path.display());
            run(&fs::read(&path).expect("a seed can be read"));
            seeds += 1;
        }
        assert!(seeds > 0);
    }

    #[test]
    fn headers_keep_their_promises_on_every_seed() {
        replay("header", super::header::run);
    }

    #[test]
    fn the_decoder_keeps_its_promises_on_every_seed() {
        replay("decoder", super::decoder::run);
    }

    #[test]
    fn a_clients_handshake_keeps_its_promises_on_every_seed() {
        replay("client_handshake", super::client_handshake::run);
    }

    #[test]
    fn a_servers_handshake_keeps_its_promises_on_every_seed() {
        replay("server_handshake", super::server_handshake::run);
    }

    #[test]
    fn lists_of_extensions_keep_their_promises_on_every_seed() {
        replay("extensions", super::extensions::run);
    }

    #[test]
    fn urls_keep_their_promises_on_every_seed() {
        replay("url", super::url::run);
    }

    #[test]
    fn text_is_judged_as_std_judges_it_on_every_seed() {
        replay("utf8", super::utf8::run);
    }

    #[test]
    fn the_payloads_of_closes_keep_their_promises_on_every_seed() {
        replay("close", super::close::run);
    }

    #[test]
    fn a_connection_keeps_its_promises_on_every_seed() {
        replay("connection", super::connection::run);
    }

    #[test]
    fn a_client_and_a_server_agree_on_every_seed() {
        replay("joined", super::joined::run);
    }

    #[test]
    fn a_session_keeps_its_promises_on_every_seed() {
        replay("session", super::session::run);
    }
}
