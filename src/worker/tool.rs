//! Running a tool: a program that is not kforge's, with a deadline, without keys, and ended with all that it has started.
//!
//! Knows no tool's words. What goes wrong is a reason in one line.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};

use crate::base::environment;
use crate::device::cuda::tools;
use crate::verdict::DeviceIdentity;

/// How long a tool may take to say its version.
const VERSION_LIMIT: Duration = Duration::from_secs(30);
/// The most that is read of what a tool says.
const MAX_OUTPUT_BYTES: u64 = 16 << 20;

/// A tool that was found and has said its version.
pub(super) struct Tool {
    name: &'static str,
    path: PathBuf,
    version: String,
    /// The name of the card that it is to see.
    gpu_uuid: Option<String>,
}

/// What a run left behind.
pub(super) struct ToolOutput {
    pub(super) stdout: String,
    pub(super) stderr: String,
    /// How it ended, in words.
    pub(super) exit: String,
}

impl Tool {
    pub(super) async fn find(name: &'static str, device: &DeviceIdentity) -> Result<Self, String> {
        let path = tools::find(name)?;
        Self::at(name, &path, device).await
    }

    async fn at(name: &'static str, path: &Path, device: &DeviceIdentity) -> Result<Self, String> {
        let mut tool = Self {
            name,
            path: path.to_owned(),
            version: String::new(),
            gpu_uuid: device.uuid.clone(),
        };
        let ran = tool
            .run(vec!["--version".into()], "", VERSION_LIMIT)
            .await?;
        tool.version = tools::parse_version(&ran.stdout).ok_or_else(|| {
            let said = [&ran.stderr, &ran.stdout].into_iter();
            let mut said = said
                .flat_map(|text| text.lines())
                .filter(|line| !line.trim().is_empty());
            let said = said.next().unwrap_or("nothing").trim();
            format!(
                "`{}` does not say its version ({}); it says: {said}",
                path.display(),
                ran.exit
            )
        })?;
        Ok(tool)
    }

    /// Such as `ncu 2025.3.0.0`.
    pub(super) fn label(&self) -> String {
        format!("{} {}", self.name, self.version)
    }

    /// Runs it to its end, however that is, or to the deadline.
    pub(super) async fn run(
        &self,
        arguments: Vec<OsString>,
        input: &str,
        limit: Duration,
    ) -> Result<ToolOutput, String> {
        let failed = |what: &str, error: std::io::Error| {
            format!("failed to {what} `{}`: {error}", self.path.display())
        };
        let file = |text: &str| -> std::io::Result<File> {
            let mut file = tempfile::tempfile()?;
            file.write_all(text.as_bytes())?;
            file.rewind()?;
            Ok(file)
        };
        let files = (|| Ok([file(input)?, file("")?, file("")?]))();
        let [input, mut out, mut err] = files.map_err(|error| failed("make files for", error))?;
        let share = |file: &File| file.try_clone().map(Stdio::from);
        let mut command = Command::new(&self.path);
        command
            .args(arguments)
            .stdin(Stdio::from(input))
            .stdout(share(&out).map_err(|error| failed("make files for", error))?)
            .stderr(share(&err).map_err(|error| failed("make files for", error))?);
        // Nothing below ever needs a model's key.
        environment::withheld_variables().iter().for_each(|name| {
            command.env_remove(name);
        });
        if let Some(card) = &self.gpu_uuid {
            command.env("CUDA_VISIBLE_DEVICES", card);
        }
        command.process_group(0).kill_on_drop(true);
        let child = command.spawn().map_err(|error| failed("start", error))?;
        let mut group = Group(child);
        let Ok(ended) = tokio::time::timeout(limit, group.0.wait()).await else {
            return Err(format!(
                "`{}` did not end within {} s",
                self.name,
                limit.as_secs_f64()
            ));
        };
        let status = ended.map_err(|error| failed("wait for", error))?;
        Ok(ToolOutput {
            stdout: read_output(&mut out),
            stderr: read_output(&mut err),
            exit: status.to_string(),
        })
    }
}

fn read_output(file: &mut File) -> String {
    let mut bytes = Vec::new();
    // What cannot be read was not said.
    let _ = file.rewind();
    let _ = file.take(MAX_OUTPUT_BYTES).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A child that leads its own process group; whatever it started goes with it.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(id) = self.0.id().and_then(|id| i32::try_from(id).ok()) {
            // SAFETY: kill has no memory preconditions; the group is that of a child that was not yet waited for.
            unsafe {
                libc::kill(-id, libc::SIGKILL);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn script(folder: &Path, text: &str) -> PathBuf {
        let path = folder.join("tool");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path
    }

    fn gpu() -> DeviceIdentity {
        DeviceIdentity {
            uuid: Some("GPU-7".to_owned()),
            ..DeviceIdentity::default()
        }
    }

    #[tokio::test]
    async fn tool_reports_its_version_and_sees_only_the_chosen_gpu() {
        let folder = tempfile::tempdir().unwrap();
        let path = script(
            folder.path(),
            r#"[ "$1" = --version ] && { echo "Version 2025.3.0.0 (build 1)"; exit; }
read line; echo "$line on $CUDA_VISIBLE_DEVICES"; echo oops >&2; exit 3"#,
        );
        let tool = Tool::at("ncu", &path, &gpu()).await.unwrap();
        assert_eq!(tool.label(), "ncu 2025.3.0.0");
        let ran = tool
            .run(Vec::new(), "asked\n", Duration::from_secs(20))
            .await;
        let ran = ran.map_err(|reason| panic!("{reason}")).unwrap();
        assert_eq!(
            (ran.stdout.as_str(), ran.stderr.as_str()),
            ("asked on GPU-7\n", "oops\n")
        );
        assert_eq!(ran.exit, "exit status: 3");
    }

    #[tokio::test]
    async fn broken_or_hanging_tool_gives_a_one_line_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = script(folder.path(), "echo broken install >&2; exit 1");
        let reason = Tool::at("ncu", &path, &gpu()).await.err().unwrap();
        assert!(
            reason.contains("broken install") && !reason.contains('\n'),
            "{reason}"
        );
        let missing = folder.path().join("none");
        assert!(Tool::at("ncu", &missing, &gpu()).await.is_err());
        let path = script(
            folder.path(),
            "[ \"$1\" ] && { echo Version 1.2; exit; }\nsleep 60 & wait",
        );
        let tool = Tool::at("ncu", &path, &gpu()).await.unwrap();
        let begun = std::time::Instant::now();
        let reason = tool
            .run(Vec::new(), "", Duration::from_millis(200))
            .await
            .err()
            .unwrap();
        assert!(reason.contains("did not end within 0.2 s"), "{reason}");
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
}
