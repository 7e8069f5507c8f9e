//! A DNS server that says what the test wants, over UDP: RFC 1035's header, one question, and its answers.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use confab_mesh::{Discovery, DiscoveryConfig, Source};
use tokio::net::UdpSocket;

use super::{Driver, expect, suite};
use crate::loopback::promptly;

const NO_ERROR: u8 = 0;
const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;
const A: u8 = 1;
const AAAA: u8 = 28;

/// The addresses and the code of each answer.
type Says = Arc<Mutex<(Vec<IpAddr>, u8)>>;

struct Dns {
    server: SocketAddr,
    says: Says,
    asked: Arc<AtomicUsize>,
}

impl Dns {
    async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        let server = socket.local_addr().expect("bound");
        let (says, asked) = (Says::default(), Arc::<AtomicUsize>::default());
        let (saying, counted) = (Arc::clone(&says), Arc::clone(&asked));
        tokio::spawn(async move {
            let mut question = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut question).await {
                let (addresses, code) = saying.lock().expect("not poisoned").clone();
                counted.fetch_add(1, Ordering::SeqCst);
                socket.send_to(&answer(&question[..length], &addresses, code), from).await.expect("sent");
            }
        });
        Self { server, says, asked }
    }

    async fn discover(&self, interval: Duration) -> Discovery {
        let source: Source = "dns:message-svc.confab.test:7000".parse().expect("a source");
        let cfg = DiscoveryConfig { dns_servers: vec![self.server], dns_interval: interval, ..Default::default() };
        source.start("message-svc", &cfg).await.expect("it begins")
    }

    fn say(&self, addresses: &[IpAddr], code: u8) {
        *self.says.lock().expect("not poisoned") = (addresses.to_vec(), code);
    }

    async fn asked_more(&self, times: usize) {
        let before = self.asked.load(Ordering::SeqCst);
        promptly(async {
            while self.asked.load(Ordering::SeqCst) < before + times {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

/// With the question as it came, and those of the addresses that it asks for.
fn answer(question: &[u8], addresses: &[IpAddr], code: u8) -> Vec<u8> {
    let name = question[12..].iter().position(|byte| *byte == 0).expect("a name's end");
    let asked = &question[12..12 + name + 5];
    let kind = asked[name + 2];
    let wanted: Vec<&IpAddr> = addresses.iter().filter(|ip| kind == if ip.is_ipv4() { A } else { AAAA }).collect();
    let count = u8::try_from(wanted.len()).expect("few");
    // The id; a response, recursion available; one question, some answers.
    let mut answer = vec![question[0], question[1], 0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0];
    answer.extend(asked);
    for ip in wanted {
        let octets = match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        // The name by reference to the question, the type and the class, a TTL of an hour, which nobody must wait for.
        answer.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0x0e, 0x10, 0, u8::try_from(octets.len()).expect("few")]);
        answer.extend(octets);
    }
    answer
}

impl Driver for Dns {
    async fn start(&self) -> Discovery {
        self.discover(Duration::from_secs(1)).await
    }

    async fn set(&mut self, addresses: &[&str]) {
        let ips: Vec<IpAddr> =
            addresses.iter().map(|address| address.parse::<SocketAddr>().expect("an address").ip()).collect();
        self.say(&ips, if ips.is_empty() { NXDOMAIN } else { NO_ERROR });
    }

    async fn fail(&mut self) -> bool {
        self.say(&[], SERVFAIL);
        self.asked_more(4).await;
        true
    }
}

#[tokio::test]
async fn the_suite() {
    suite(Dns::start().await).await;
}

#[tokio::test]
async fn an_endpoint_that_fails_makes_it_ask_soon_but_not_often() {
    let dns = Dns::start().await;
    let ip = |last| IpAddr::from([10, 0, 0, last]);
    dns.say(&[ip(1)], NO_ERROR);
    let discovery = dns.discover(Duration::from_secs(3_600)).await;
    let mut endpoints = discovery.endpoints();
    expect(&mut endpoints, &["10.0.0.1:7000"]).await;

    dns.say(&[ip(2)], NO_ERROR);
    let before = dns.asked.load(Ordering::SeqCst);
    for _ in 0..100 {
        discovery.look_again();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    expect(&mut endpoints, &["10.0.0.2:7000"]).await;
    let asked = dns.asked.load(Ordering::SeqCst) - before;
    assert!(asked <= 4, "A and AAAA, once or twice: {asked}");
}

#[tokio::test]
async fn it_ends_when_nobody_follows() {
    let dns = Dns::start().await;
    dns.say(&[], SERVFAIL);
    let discovery = dns.discover(Duration::from_secs(1)).await;
    dns.asked_more(1).await;
    let weak = {
        let endpoints = discovery.endpoints();
        drop(discovery);
        endpoints
    };
    dns.asked_more(4).await;
    drop(weak);
    // What was under way ends; then nothing comes any more: two seconds without a question, where there is one a second.
    promptly(async {
        loop {
            let before = dns.asked.load(Ordering::SeqCst);
            tokio::time::sleep(Duration::from_secs(2)).await;
            if dns.asked.load(Ordering::SeqCst) == before {
                return;
            }
        }
    })
    .await;
}
