//! The proxy in front of the edges.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::state::{Launch, Place};

/// Where clients connect.
pub const FRONT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8_090);

/// Writes its settings; it isn't started.
///
/// # Errors
/// If nginx is not installed, or the settings can't be written.
pub fn prepare(place: &Place, edges: &[SocketAddr]) -> anyhow::Result<Launch> {
    let folder = place.folder().join("nginx");
    fs::create_dir(&folder)?;
    let (settings, log) = (folder.join("nginx.conf"), place.logs().join("nginx.log"));
    fs::write(&settings, config(&folder, &log, FRONT, edges)).context("writing nginx.conf")?;
    let args = [Path::new("-p"), &folder, Path::new("-e"), &log, Path::new("-c"), &settings];
    Ok(Launch {
        name: "nginx".to_owned(),
        program: program()?,
        args: args.map(|arg| arg.display().to_string()).to_vec(),
        env: Vec::new(),
        addr: FRONT,
        ready: FRONT,
    })
}

/// Debian has it where a user's `PATH` doesn't look.
fn program() -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    let mut programs = folders.map(|folder| folder.join("nginx"));
    match programs.find(|program| program.is_file()) {
        Some(program) => Ok(program),
        None => bail!("nginx is not installed: it is Debian's package nginx-light"),
    }
}

/// All in one process, so that its number in the table is all there is to kill; nothing outside of `folder` and the log.
fn config(folder: &Path, log: &Path, front: SocketAddr, edges: &[SocketAddr]) -> String {
    let servers: String =
        edges.iter().map(|edge| format!("        server {edge} max_fails=1 fail_timeout=1s;\n")).collect();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("    {kind}_temp_path \"{}/{kind}\";\n", folder.display()))
        .collect();
    format!(
        r#"# Of `cargo xtask cluster`: a proxy in front of the edges, without sticky sessions.
daemon off;
master_process off;
pid "{folder}/nginx.pid";
error_log "{log}" warn;

events {{
    # Two for each client.
    worker_connections 8192;
}}

http {{
    # Tokens may stand in URLs.
    access_log off;
{temporary}
    map $http_upgrade $connection_header {{
        default upgrade;
        ""      "";
    }}

    upstream edges {{
        least_conn;
{servers}    }}

    server {{
        listen {front};

        proxy_pass_header Server;
        proxy_http_version 1.1;
        proxy_set_header Host $http_host;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $connection_header;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Proto $scheme;
        proxy_buffering off;
        # An edge that is gone is on this machine: it refuses at once.
        proxy_connect_timeout 2s;
        # An edge that drains or has no owner to send to says 503: the other one may have.
        proxy_next_upstream error timeout http_503;
        # Which edge it was, for whoever wonders.
        add_header X-Confab-Edge $upstream_addr always;

        location / {{
            proxy_pass http://edges;
        }}

        location = /ws {{
            # Errors name the URL, and a token stands in it.
            error_log /dev/null;
            proxy_pass http://edges;
            # The server pings every 30 s, and lets go of who says nothing for 45 s: it is not for the proxy to do so.
            proxy_read_timeout 120s;
            proxy_send_timeout 120s;
        }}
    }}
}}
"#,
        folder = folder.display(),
        log = log.display(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_edge_is_behind_it_and_no_token_gets_into_a_log() {
        let edges = ["127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap()];
        let text = config(Path::new("/x y/nginx"), Path::new("/x y/nginx.log"), FRONT, &edges);
        for line in [
            "listen 127.0.0.1:8090;",
            "server 127.0.0.1:1 max_fails=1 fail_timeout=1s;",
            "server 127.0.0.1:2 max_fails=1 fail_timeout=1s;",
            "access_log off;",
            "error_log /dev/null;",
            "pid \"/x y/nginx/nginx.pid\";",
        ] {
            assert_eq!(text.matches(line).count(), 1, "{line} in {text}");
        }
        assert_eq!(text.matches('{').count(), text.matches('}').count());
    }
}
