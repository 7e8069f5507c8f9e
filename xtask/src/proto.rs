//! `cargo xtask proto`: the generated code of `proto/`, committed so that a build needs no generator.

use std::fs;
use std::path::Path;

use anyhow::Context;

const FILES: [&str; 6] = [
    "confab/client/v1/client.proto",
    "confab/fanout/v1/fanout.proto",
    "confab/message/v1/event.proto",
    "confab/message/v1/message.proto",
    "confab/message/v1/user.proto",
    "confab/presence/v1/presence.proto",
];

/// Fields that few messages have: a command is not to be larger for them.
const RARE: [&str; 3] =
    [".confab.message.v1.Send.edit", ".confab.message.v1.Send.deletion", ".confab.message.v1.Send.reaction"];

/// What reflection answers from.
const DESCRIPTORS: &str = "descriptors.bin";

/// Writes `proto/src/gen/` anew.
pub(crate) fn regenerate() -> anyhow::Result<()> {
    generate(&crate::root().join("proto/src/gen"))
}

fn generate(out: &Path) -> anyhow::Result<()> {
    let source = crate::root().join("proto");
    let descriptors = protox::Compiler::new([&source])?
        .include_source_info(true)
        .include_imports(true)
        .open_files(FILES)?
        .file_descriptor_set();
    fs::create_dir_all(out)?;
    let config = RARE.iter().fold(tonic_prost_build::configure(), |config, field| config.boxed(*field));
    config.bytes(".").out_dir(out).compile_fds(descriptors).context("generating from the descriptors")?;
    fs::write(out.join(DESCRIPTORS), encoded_descriptors(&source)?).context("writing the descriptors")
}

/// Without comments, which would be most of it.
fn encoded_descriptors(source: &Path) -> anyhow::Result<Vec<u8>> {
    let mut compiler = protox::Compiler::new([source])?;
    compiler.include_source_info(false).include_imports(true).open_files(FILES)?;
    Ok(compiler.encode_file_descriptor_set())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn files_of(dir: &Path) -> BTreeMap<String, Vec<u8>> {
        fs::read_dir(dir)
            .expect("a folder of generated code")
            .map(|entry| entry.expect("an entry").path())
            .map(|path| {
                let name = path.file_name().expect("a name").to_string_lossy().into_owned();
                (name, fs::read(path).expect("a file"))
            })
            .collect()
    }

    #[test]
    fn committed_code_is_what_the_protos_give() {
        let fresh = tempfile::tempdir().expect("a folder");
        generate(fresh.path()).expect("the protos compile");
        let committed = files_of(&crate::root().join("proto/src/gen"));
        assert!(files_of(fresh.path()) == committed, "proto/src/gen is not what proto/ gives: run `cargo xtask proto`");
    }
}
