//! Runs an external tool such as `ncu`: with a deadline and without API keys. The tool and everything it starts are killed at the
//! end.
//!
//! Does not interpret the tool's output; `device::cuda::tools` does. An error is a reason in one line, never an `anyhow::Error`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::base::process::{GroupLeader, tie_to_parent};
use crate::base::{environment, temporary};
use crate::device::cuda::tools;
use crate::verdict::DeviceIdentity;

/// Deadline for printing the version.
const VERSION_LIMIT: Duration = Duration::from_secs(30);
/// Maximum number of bytes that are read from each output stream.
const MAX_OUTPUT_BYTES: u64 = 16 << 20;

/// A tool that was found and has printed its version.
pub(super) struct Tool {
    name: &'static str,
    path: PathBuf,
    version: String,
    /// The only GPU that the tool can see.
    gpu_uuid: Option<String>,
}

/// The result of running a tool.
pub(super) struct ToolOutput {
    pub(super) stdout: String,
    pub(super) stderr: String,
    /// Exit status as text.
    pub(super) exit: String,
}

impl Tool {
    /// Finds a tool and asks for its version. `device`: the GPU to run on.
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
        let output = tool
            .run(vec!["--version".into()], "", VERSION_LIMIT)
            .await?;
        tool.version = tools::parse_version(&output.stdout).ok_or_else(|| {
            let mut lines = [&output.stderr, &output.stdout]
                .into_iter()
                .flat_map(|text| text.lines())
                .filter(|line| !line.trim().is_empty());
            format!(
                "`{}` prints no version ({}); its output starts with: {}",
                path.display(),
                output.exit,
                lines.next().unwrap_or("nothing").trim()
            )
        })?;
        Ok(tool)
    }

    /// Name and version, such as `ncu 2025.3.0.0`.
    pub(super) fn label(&self) -> String {
        format!("{} {}", self.name, self.version)
    }

    /// Runs the tool until it ends, with any exit status, or until the deadline.
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
            let mut file = temporary::file()?;
            file.write_all(text.as_bytes())?;
            file.rewind()?;
            Ok(file)
        };
        // Files instead of pipes: a process that outlives the tool cannot keep kforge waiting for the end of a pipe.
        let files = (|| Ok([file(input)?, file("")?, file("")?]))();
        let [input, mut stdout, mut stderr] =
            files.map_err(|error| failed("create files for", error))?;
        let share = |file: &File| file.try_clone().map(Stdio::from);
        let mut command = Command::new(&self.path);
        command
            .args(arguments)
            .stdin(Stdio::from(input))
            .stdout(share(&stdout).map_err(|error| failed("create files for", error))?)
            .stderr(share(&stderr).map_err(|error| failed("create files for", error))?);
        // A tool never needs an API key.
        environment::withheld_variables().iter().for_each(|name| {
            command.env_remove(name);
        });
        if let Some(uuid) = &self.gpu_uuid {
            command.env("CUDA_VISIBLE_DEVICES", uuid);
        }
        temporary::pass_on(command.as_std_mut());
        tie_to_parent(command.as_std_mut());
        command.kill_on_drop(true);
        let child = command.spawn().map_err(|error| failed("start", error))?;
        let mut child = GroupLeader::new(child);
        let Ok(ended) = tokio::time::timeout(limit, child.wait()).await else {
            return Err(format!(
                "`{}` did not end within {} s",
                self.name,
                limit.as_secs_f64()
            ));
        };
        let status = ended.map_err(|error| failed("wait for", error))?;
        Ok(ToolOutput {
            stdout: read_output(&mut stdout),
            stderr: read_output(&mut stderr),
            exit: status.to_string(),
        })
    }
}

fn read_output(file: &mut File) -> String {
    let mut bytes = Vec::new();
    // Output that cannot be read counts as empty.
    let _ = file.rewind();
    let _ = file.take(MAX_OUTPUT_BYTES).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
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
        let started = std::time::Instant::now();
        let reason = tool
            .run(Vec::new(), "", Duration::from_millis(200))
            .await
            .err()
            .unwrap();
        assert!(reason.contains("did not end within 0.2 s"), "{reason}");
        assert!(started.elapsed() < Duration::from_secs(20));
    }
}
