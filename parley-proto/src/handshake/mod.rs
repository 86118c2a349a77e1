//! The opening handshake over HTTP/1.1: RFC 6455, section 4.
