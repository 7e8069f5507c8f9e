//! Sources as strings.

use std::{fmt, str::FromStr};

use http::uri::Authority;

use super::{Endpoint, KubePort, Source};

/// What is wrong with a source's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseSourceError {
    text: String,
    wrong: String,
    example: &'static str,
}

impl fmt::Display for ParseSourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "discovery source {:?}: {}; for example {}", self.text, self.wrong, self.example)
    }
}

impl std::error::Error for ParseSourceError {}

const STATIC: &str = "static:10.0.0.1:7000,10.0.0.2:7000";
const DNS: &str = "dns:message-svc.confab.svc.cluster.local:7000";
const GOSSIP: &str = "gossip:";
const KUBE: &str = "k8s:confab/message-svc:7000";

impl FromStr for Source {
    type Err = ParseSourceError;

    fn from_str(text: &str) -> Result<Self, ParseSourceError> {
        let error = |example, wrong| ParseSourceError { text: text.to_owned(), wrong, example };
        let Some((kind, rest)) = text.split_once(':') else {
            return Err(error(STATIC, "it does not begin with its kind and a colon".to_owned()));
        };
        match kind {
            "static" => fixed(rest).map_err(|wrong| error(STATIC, wrong)),
            "dns" => dns(rest).map_err(|wrong| error(DNS, wrong)),
            "gossip" if rest.is_empty() => Ok(Self::Gossip),
            "gossip" => Err(error(GOSSIP, format!("nothing follows the colon, but {rest:?} does"))),
            "k8s" => kube(rest).map_err(|wrong| error(KUBE, wrong)),
            _ => Err(error(STATIC, format!("no kind {kind:?}: there are static, dns, gossip and k8s"))),
        }
    }
}

fn fixed(rest: &str) -> Result<Source, String> {
    if rest.is_empty() {
        return Err("no endpoint is named".to_owned());
    }
    rest.split(',').map(|address| endpoint(address.trim())).collect::<Result<_, _>>().map(Source::Static)
}

fn dns(rest: &str) -> Result<Source, String> {
    let (name, port) = host_and_port(rest)?;
    Ok(Source::Dns { name: name.to_owned(), port })
}

fn kube(rest: &str) -> Result<Source, String> {
    let (namespace, rest) = rest.split_once('/').ok_or("it names no namespace (namespace/service:port)")?;
    let (service, port) = rest.split_once(':').ok_or("it names no port (namespace/service:port)")?;
    for name in [namespace, service, port] {
        if name.is_empty()
            || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        {
            return Err(format!("{name:?} is no name in Kubernetes (a to z, 0 to 9 and -)"));
        }
    }
    let port = match port.bytes().all(|byte| byte.is_ascii_digit()) {
        true => KubePort::Number(port_number(port).ok_or_else(|| format!("{port:?} is no port (1 to 65535)"))?),
        false => KubePort::Name(port.to_owned()),
    };
    Ok(Source::Kube { namespace: namespace.to_owned(), service: service.to_owned(), port })
}

fn endpoint(address: &str) -> Result<Endpoint, String> {
    let (host, port) = host_and_port(address)?;
    Ok(Endpoint { address: format!("{host}:{port}").into() })
}

fn host_and_port(address: &str) -> Result<(&str, u16), String> {
    let authority = address.parse::<Authority>().ok().filter(|authority| !authority.as_str().contains('@'));
    if authority.is_none_or(|authority| authority.host().is_empty()) {
        return Err(format!("{address:?} is not host:port"));
    }
    let (host, port) = address.rsplit_once(':').ok_or_else(|| format!("{address:?} has no port"))?;
    let number = port_number(port).ok_or_else(|| format!("{port:?} is no port (1 to 65535) in {address:?}"))?;
    Ok((host, number))
}

fn port_number(port: &str) -> Option<u16> {
    port.parse().ok().filter(|port| *port > 0)
}

#[cfg(test)]
mod tests {
    use super::{Endpoint, KubePort, Source};

    fn kube(port: KubePort) -> Source {
        Source::Kube { namespace: "confab".to_owned(), service: "message-svc".to_owned(), port }
    }

    fn fixed(addresses: &[&str]) -> Source {
        Source::Static(addresses.iter().map(|&address| Endpoint { address: address.into() }).collect())
    }

    #[test]
    fn sources_are_read() {
        for (text, source) in [
            ("static:a:1", fixed(&["a:1"])),
            ("static:10.0.0.1:7000, [::1]:7001", fixed(&["10.0.0.1:7000", "[::1]:7001"])),
            ("dns:fanout.confab:7000", Source::Dns { name: "fanout.confab".to_owned(), port: 7000 }),
            ("gossip:", Source::Gossip),
            ("k8s:confab/message-svc:7000", kube(KubePort::Number(7_000))),
            ("k8s:confab/message-svc:grpc", kube(KubePort::Name("grpc".to_owned()))),
        ] {
            assert_eq!(text.parse(), Ok(source), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_and_an_example_shown() {
        for (text, wrong) in [
            ("", "it does not begin with its kind and a colon"),
            ("10.0.0.1", "it does not begin with its kind and a colon"),
            ("etcd:a:1", "no kind \"etcd\""),
            ("static:", "no endpoint is named"),
            ("static:a:1,", "\"\" is not host:port"),
            ("static:a", "\"a\" has no port"),
            ("static:a:0", "\"0\" is no port (1 to 65535) in \"a:0\""),
            ("static:a:70000", "\"70000\" is no port"),
            ("static:::1:7000", "is not host:port"),
            ("static:http://a:1", "is not host:port"),
            ("static:u@a:1", "is not host:port"),
            ("dns:", "\"\" is not host:port"),
            ("dns:fanout", "\"fanout\" has no port"),
            ("k8s:message-svc:7000", "it names no namespace"),
            ("k8s:confab/message-svc", "it names no port"),
            ("k8s:confab/:7000", "\"\" is no name in Kubernetes"),
            ("k8s:confab/message_svc:7000", "\"message_svc\" is no name in Kubernetes"),
            ("k8s:confab/message-svc:70000", "\"70000\" is no port"),
            ("gossip:7000", "nothing follows the colon, but \"7000\" does"),
        ] {
            let error = text.parse::<Source>().expect_err(text).to_string();
            assert!(error.contains(wrong) && error.contains(&format!("{text:?}")), "{error}");
            assert!(error.contains("; for example "), "{error}");
        }
    }
}
