//! Makes the worker pool of each task of a run. All tasks share the options; each has its own profile.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Context;

use super::pool::WorkerPool;
use super::pool_options::PoolOptions;
use super::profiling::Profiling;
use super::{Evaluator, EvaluatorFactory, JobFuture};
use crate::device::Cache;
use crate::eval;
use crate::task::{Task, TaskFiles};
use crate::verdict::DeviceIdentity;

/// The options that all pools of a run share.
pub(crate) struct WorkerPools {
    /// The GPUs that judge; if empty, the CPU of this machine judges.
    pub gpus: Vec<DeviceIdentity>,
    pub cache: Cache,
    /// Whether kernels run on the CPU before they run on a GPU.
    pub screen: bool,
    /// NVIDIA tools to run on kernels that were confirmed.
    pub profiling: Profiling,
    /// The files of the tasks, by the task's name.
    pub files: HashMap<String, TaskFiles>,
    /// Name of the profile: `quick` or `full`.
    pub profile: String,
    /// Deadline of one launch, in seconds.
    pub launch_seconds: f64,
}

impl EvaluatorFactory for WorkerPools {
    fn open(&self, task: Arc<Task>) -> JobFuture<'_, Arc<dyn Evaluator>> {
        Box::pin(async move {
            let files = self
                .files
                .get(&task.name)
                .with_context(|| format!("the files of task `{}` are missing", task.name))?;
            let profile = task.settings.profiles.get(&self.profile).with_context(|| {
                format!("task `{}` has no profile `{}`", task.name, self.profile)
            })?;
            let options = eval::JudgeOptions {
                profile: profile.clone(),
                launch_seconds: self.launch_seconds,
                thorough: false,
                cache: self.cache,
            };
            let pool = WorkerPool::new(PoolOptions {
                files: files.clone(),
                options,
                workloads: task.selected_workloads(profile).len(),
                gpus: self.gpus.clone(),
                screen: self.screen,
                profiling: self.profiling,
            })?;
            pool.start().await?;
            Ok(Arc::new(pool) as Arc<dyn Evaluator>)
        })
    }
}
