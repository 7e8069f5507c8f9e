//! The settings of a process with roles.

use super::*;

const EDGE: &str = "role = [\"edge\"]\ntoken.secret_file = \"Cargo.toml\"\n";

fn of(text: &str) -> Config {
    from_toml(text).unwrap_or_else(|problems| panic!("{text}: {problems}"))
}

#[test]
fn roles_come_from_a_list_or_repeated_flags_and_start_in_their_order() {
    let config = of("role = [\"fanout-svc\", \"presence-svc\"]\nmesh.discover.all = \"gossip:\"");
    assert_eq!(config.roles, [Role::Presence, Role::Fanout]);
    let flags = Flags { role: vec!["presence-svc".into(), "fanout-svc,presence-svc".into()], ..Flags::default() };
    let config = resolve(&flags, &[("CONFAB_MESH__DISCOVER__PRESENCE_SVC", "static:127.0.0.1:7400")]).expect("good");
    assert_eq!(config.roles, [Role::Presence, Role::Fanout]);
    assert!(refusal("role = [\"media-svc\"]").contains("must be one or more of edge, message-svc, fanout-svc"));
}

#[test]
fn whom_a_role_calls_has_to_be_somewhere() {
    let words = refusal(EDGE);
    for key in ["mesh.discover.message_svc", "mesh.discover.fanout_svc", "mesh.discover.presence_svc"] {
        assert!(words.contains(&format!("{key}\n    is needed: edge calls ")), "{words}");
    }
    assert!(from_toml("role = [\"presence-svc\"]").is_ok());
    let words = refusal(&format!("{EDGE}mesh.discover.all = \"dns:{{service}}\""));
    assert!(words.contains("mesh.discover.all = ") && words.starts_with("1 problem"), "{words}");
}

#[test]
fn one_pattern_serves_all_and_a_service_s_own_goes_before_it() {
    let text = format!(
        "{EDGE}mesh.discover.all = \"dns:{{service}}.confab:7400\"\nmesh.discover.fanout_svc = \"static:10.0.0.1:7400\""
    );
    let discover = of(&text).mesh.discover;
    assert_eq!(discover[&Role::Message], "dns:message-svc.confab:7400".parse().expect("a source"));
    assert_eq!(discover[&Role::Fanout], "static:10.0.0.1:7400".parse().expect("a source"));
    assert_eq!(discover.len(), 3);
}

#[test]
fn a_plain_mesh_stays_on_this_machine() {
    for exposed in ["0.0.0.0:7400", "10.0.0.1:7400"] {
        let words = refusal(&format!("role = [\"presence-svc\"]\nmesh.listen = {exposed:?}"));
        assert!(words.contains("mesh.listen = ") && words.contains("plain text that everybody may call"), "{words}");
    }
    assert!(from_toml("role = [\"presence-svc\"]\nmesh.listen = \"127.1.2.3:0\"").is_ok());
    // One without a listener of that kind may say what it likes: a file is shared by all roles.
    assert!(
        from_toml(&format!("{EDGE}mesh.discover.all = \"static:10.0.0.1:1\"\nmesh.listen = \"0.0.0.0:1\"")).is_ok()
    );
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, "").expect("written");
        path.display().to_string()
    };
    let (cert, key, ca) = (file("cert"), file("key"), file("ca"));
    let tls = format!(
        "role = [\"presence-svc\"]\nmesh.listen = \"0.0.0.0:7400\"\nmesh.tls.cert = {cert:?}\nmesh.tls.key = {key:?}"
    );
    assert!(refusal(&tls).contains("mesh.tls.ca\n    is needed, too"), "{}", refusal(&tls));
    assert!(from_toml(&format!("{tls}\nmesh.tls.ca = {ca:?}")).is_ok());
}

#[test]
fn an_edge_alone_needs_the_secret_and_a_gossip_an_address() {
    let discover = "mesh.discover.all = \"gossip:\"\n";
    let words = refusal(&format!("role = [\"edge\"]\n{discover}"));
    assert!(words.contains("token.secret_file\n    is needed by an edge without a data folder"), "{words}");
    assert!(from_toml(&format!("role = [\"edge\", \"message-svc\"]\n{discover}")).is_ok(), "it has a data folder");
    let words = refusal(&format!("{EDGE}{discover}mesh.gossip.listen = \"0.0.0.0:7400\""));
    assert!(words.contains("mesh.gossip.advertise\n    is needed"), "{words}");
    for bad in ["mesh.gossip.listen = \"127.0.0.1:0\"", "mesh.advertise = \"7400\"", "mesh.gossip.seeds = [\"a\"]"] {
        let key = bad.split(" = ").next().expect("a key");
        assert!(refusal(&format!("{EDGE}{discover}{bad}")).contains(key), "{bad}");
    }
}

#[test]
fn the_storage_is_named_whole() {
    let cassandra = "role = [\"message-svc\"]\nmesh.discover.all = \"gossip:\"\nstorage.kind = \"cassandra\"\n";
    assert!(
        refusal(cassandra).contains("storage.contact_points\n    is needed with storage.kind"),
        "{}",
        refusal(cassandra)
    );
    let config =
        of(&format!("{cassandra}storage.contact_points = [\"127.0.0.1:9042\", \"[::1]:9042\", \"localhost:9042\"]"));
    assert!(matches!(config.storage, StorageConfig::Cassandra(fields) if fields.replication_factor == 3));
    for bad in [
        "storage.contact_points = [\"10.0.0.5\"]",
        "storage.keyspace = \"Con fab\"",
        "storage.replication_factor = 0",
        "storage.username = \"confab\"",
    ] {
        assert!(refusal(&format!("{cassandra}{bad}")).contains("storage."), "{bad}");
    }
    let exposed = refusal(&format!("{cassandra}storage.contact_points = [\"127.0.0.1:9042\", \"10.0.0.5:9042\"]"));
    assert!(exposed.contains("are other machines") && exposed.contains("storage.tls.ca"), "{exposed}");
    let here = std::env::current_exe().expect("a file");
    let tls = format!("storage.contact_points = [\"10.0.0.5:9042\"]\nstorage.tls.ca = {here:?}");
    let StorageConfig::Cassandra(fields) = of(&format!("{cassandra}{tls}")).storage else { panic!("Cassandra") };
    assert!(fields.tls.is_some_and(|tls| tls.client.is_none()));
    let half = refusal(&format!("{cassandra}{tls}\nstorage.tls.cert = {here:?}"));
    assert!(half.contains("storage.tls.key\n    is needed, too, where storage.tls.cert is given"), "{half}");
    assert!(refusal("storage.kind = \"redis\"").contains("must be embedded or cassandra"));
    let alone = refusal("storage.kind = \"cassandra\"\nstorage.contact_points = [\"10.0.0.5:9042\"]");
    assert!(alone.contains("a cluster's have --role"), "{alone}");
}

#[test]
fn redis_is_one_address_that_is_not_plain_text_elsewhere() {
    let with = |line: &str| format!("role = [\"presence-svc\"]\n{line}");
    assert_eq!(of(&with("")).redis.address, None);
    assert_eq!(of(&with("redis.url = \"\"")).redis.address, None);
    for fine in ["redis://127.0.0.1:6379", "rediss-cluster://ann:hunter2@10.0.0.5:6379?node=10.0.0.6:6379"] {
        let config = of(&with(&format!("redis.url = {fine:?}")));
        let shown = format!("{:?}", config.redis);
        assert!(config.redis.address.is_some() && !shown.contains("hunter2"), "{shown}");
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("redis.url");
    std::fs::write(&file, "rediss://:hunter2@redis:6379\n").expect("written");
    let from_file = format!("redis.url_file = {file:?}");
    assert!(of(&with(&from_file)).redis.address.is_some());
    for (line, word) in [
        ("redis.url = \"redis://:hunter2@10.0.0.5:6379\"".to_owned(), "redis.url = \"redis://…\""),
        ("redis.url = \"redis://:hunter2@10.0.0.5:6379\"".to_owned(), "in plain text"),
        ("redis.url = \"http://:hunter2@10.0.0.5:6379\"".to_owned(), "must be an address such as rediss://"),
        ("redis.url = \":hunter2@10.0.0.5:6379\"".to_owned(), "it has no scheme"),
        ("redis.ulr = \"rediss://:hunter2@10.0.0.5:6379\"".to_owned(), "did you mean redis.url"),
        (format!("{from_file}\nredis.url = \"redis://localhost\""), "must not be given where redis.url is"),
        ("redis.url_file = \"/nonexistent\"".to_owned(), "redis.url_file = \"/nonexistent\""),
        ("redis.ca = \"/nonexistent\"".to_owned(), "redis.ca = \"/nonexistent\""),
    ] {
        let words = refusal(&with(&line));
        assert!(words.contains(word) && !words.contains("hunter2"), "{line}: {words}");
    }
    let by_env = resolve(&Flags::default(), &[("CONFAB_REDIS__URL", "redis://:hunter2@127.0.0.1")]);
    let alone = by_env.expect_err("it has no role").to_string();
    assert!(alone.contains("a cluster's have --role") && !alone.contains("hunter2"), "{alone}");
    let empty = resolve(&Flags::default(), &[("CONFAB_REDIS__URL", ""), ("CONFAB_REDIS_PORT", "7000")]);
    assert_eq!(empty.expect("none is given").redis, RedisConfig::default());
}
