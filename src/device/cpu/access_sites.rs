//! Reads the access counts that the race build wrote to the control page.
//!
//! The counts are untrusted: a candidate could have written any number. They are feedback and never decide a verdict.

use super::control_page::{ACCESS_ATOMIC, ACCESS_SHARED, ACCESS_WRITE, ControlPage, MAX_SITES};
use super::line_table::LineTable;
use crate::device::AccessSite;

/// The counts of every load and store instruction, scaled to all threads of the plan.
pub(super) fn access_sites(control: &ControlPage, lines: &LineTable) -> Vec<AccessSite> {
    let count = (control.site_count as usize).min(MAX_SITES);
    let scale = control.total_threads as f64 / control.sampled_threads.max(1) as f64;
    let sites = control.sites[..count].iter();
    sites
        .map(|site| AccessSite {
            line: lines.line_of(site.site),
            writes: site.flags & ACCESS_WRITE != 0,
            atomic: site.flags & ACCESS_ATOMIC != 0,
            shared: site.flags & ACCESS_SHARED != 0,
            bytes: site.bytes,
            lanes: site.lanes as f64 * scale,
            requests: site.requests,
            sectors: site.sectors,
            min_sectors: site.min_sectors,
            strided: site.strided,
            lanes_seen: site.sampled_lanes,
        })
        .collect()
}
