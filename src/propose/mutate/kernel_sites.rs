//! The rewrite sites of one kernel, found when they are needed, and the children that they make.
//!
//! Pure: the same source and task always give the same sites. Chooses no site; `site_order` does.

use std::sync::OnceLock;

use super::list::transformations;
use super::subject::Subject;
use super::transformation::{RewriteSite, Transformation};
use crate::propose::child_check::{CheckedChild, ParentNames};
use crate::task::Task;

/// One rewrite site of a kernel: an index into the list of transformations, and one into the sites of that transformation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SiteId {
    pub transformation: usize,
    pub site: usize,
}

/// A kernel and its rewrite sites.
pub(super) struct KernelSites<'a> {
    subject: Subject<'a>,
    names: ParentNames<'a>,
    task: &'a Task,
    /// The sites by transformation. Empty until the first use.
    sites: Vec<OnceLock<Vec<RewriteSite>>>,
}

impl<'a> KernelSites<'a> {
    /// `None` if the source is not a kernel of the task.
    pub(super) fn new(source: &'a str, task: &'a Task) -> Option<Self> {
        let subject = Subject::new(source, task)?;
        let names = ParentNames::of(&subject.syntax, task);
        let sites = transformations().iter().map(|_| OnceLock::new()).collect();
        Some(Self {
            subject,
            names,
            task,
            sites,
        })
    }

    /// The number of sites of a transformation.
    pub(super) fn count(&self, transformation: usize) -> usize {
        self.sites_of(transformation).len()
    }

    /// The child that a site makes; `None` if it fails a check.
    pub(super) fn child(&self, id: SiteId) -> Option<CheckedChild> {
        let site = self.sites_of(id.transformation).get(id.site)?;
        self.names.child(&site.edits, None, self.task)
    }

    /// What a site changes: `split_accumulator sum x4 (line 31; sums in another order)`.
    pub(super) fn detail(&self, id: SiteId) -> String {
        let transformation = transformations()[id.transformation];
        let Some(site) = self.sites_of(id.transformation).get(id.site) else {
            return transformation.name().to_owned();
        };
        let caveat = transformation.caveat().map(|caveat| format!("; {caveat}"));
        format!(
            "{} {} (line {}{})",
            transformation.name(),
            site.label,
            site.line,
            caveat.unwrap_or_default()
        )
    }

    fn sites_of(&self, transformation: usize) -> &[RewriteSite] {
        self.sites[transformation]
            .get_or_init(|| transformations()[transformation].sites(&self.subject))
    }
}

impl SiteId {
    /// The transformation's name.
    pub(super) fn name(self) -> &'static str {
        let transformation: &'static dyn Transformation = transformations()[self.transformation];
        transformation.name()
    }
}
