//! Whether an HTTP request that shows no credential comes from a program on this machine that nobody steers from
//! outside. A listener on loopback is reached by every web page that a browser on this machine shows, and by every
//! reverse proxy that runs here: neither is the user of this machine.

use std::net::{IpAddr, SocketAddr};

use axum::extract::ConnectInfo;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri, header};

/// Whether the request comes from a program on this machine that nobody from outside steers: the peer is
/// this machine, no proxy handed it on, and it names this machine as the host (a page in a browser that
/// rebinds a name of its own to 127.0.0.1 names that) and as its origin, if it has one.
pub fn is_local(parts: &Parts) -> bool {
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    let Some(ConnectInfo(peer)) = peer else { return false };
    if !peer.ip().to_canonical().is_loopback() {
        return false;
    }
    let proxied = ["forwarded", "x-forwarded-for", "x-real-ip", "via"];
    if proxied.iter().any(|name| parts.headers.contains_key(*name)) {
        return false;
    }
    let host = host(&parts.headers, &parts.uri);
    let origin = origin(&parts.headers);
    host.is_none_or(names_this_machine) && origin.is_none_or(names_this_machine)
}

/// Whether a page of another origin sent it: browsers say so with every request that changes something.
pub fn is_cross_site(parts: &Parts) -> bool {
    let said = text(&parts.headers, header::HeaderName::from_static("sec-fetch-site"));
    if said.is_some_and(|said| !matches!(said, "same-origin" | "none")) {
        return true;
    }
    origin(&parts.headers).is_some_and(|origin| host(&parts.headers, &parts.uri) != Some(origin))
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).map(|value| value.to_str().unwrap_or("?"))
}

/// HTTP/2 carries the host in the address of the request.
fn host<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a str> {
    text(headers, header::HOST).or(uri.authority().map(|authority| authority.as_str()))
}

fn origin(headers: &HeaderMap) -> Option<&str> {
    text(headers, header::ORIGIN).map(|origin| origin.split_once("://").map_or(origin, |(_, host)| host))
}

fn names_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;

    fn parts(peer: Option<&str>, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri("/api/v1/rules");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        if let Some(peer) = peer {
            parts.extensions.insert(ConnectInfo::<SocketAddr>(peer.parse().unwrap()));
        }
        parts
    }

    fn check(peer: Option<&str>, headers: &[(&str, &str)], expected: bool) {
        assert_eq!(is_local(&parts(peer, headers)), expected, "{peer:?} {headers:?}");
    }

    #[test]
    fn only_programs_on_this_machine_are_local() {
        let here = Some("127.0.0.1:5000");
        check(here, &[("host", "127.0.0.1:8080")], true);
        check(Some("[::1]:5000"), &[("host", "[::1]:8080")], true);
        check(Some("[::ffff:127.0.0.1]:5000"), &[("host", "localhost")], true);
        check(here, &[("host", "localhost:8080"), ("origin", "http://localhost:8080")], true);
        check(None, &[("host", "localhost")], false);
        check(Some("10.0.0.1:5000"), &[("host", "localhost")], false);
        check(here, &[("host", "localhost"), ("x-forwarded-for", "1.2.3.4")], false);
        check(here, &[("host", "evil.example:8080")], false);
        check(here, &[("host", "localhost"), ("origin", "https://evil.example")], false);
        check(here, &[("host", "localhost"), ("origin", "null")], false);
    }

    #[test]
    fn pages_of_another_origin_say_so() {
        let check = |headers: &[(&str, &str)], expected| {
            assert_eq!(is_cross_site(&parts(None, headers)), expected, "{headers:?}");
        };
        check(&[("host", "box:8080")], false);
        check(&[("host", "box:8080"), ("origin", "http://box:8080")], false);
        check(&[("host", "box:8080"), ("origin", "http://box:9090")], true);
        check(&[("host", "box:8080"), ("origin", "null")], true);
        check(&[("host", "box:8080"), ("sec-fetch-site", "cross-site")], true);
        check(&[("host", "box:8080"), ("sec-fetch-site", "same-origin")], false);
    }
}
