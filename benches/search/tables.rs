//! The tables of the suite, as Markdown.

use std::fmt::Write;

use crate::scenarios::Scenario;
use crate::simulation::record::RunRecord;
use crate::statistics::{Interval, bootstrap, mean, median, share};
use crate::suite::Row;

/// A search has reached the optimum if its best kernel has this share of it.
const REACHED: f64 = 0.99;

/// The table of one scenario. The others are compared with the first row.
pub(crate) fn table(scenario: &Scenario, rows: &[&Row]) -> String {
    let [early, late] = scenario.at_steps;
    let [soon, end] = scenario.at_minutes;
    let mut text = format!(
        "| {} | {early} steps | {late} steps | {soon} min | {end} min | against the first row | optimum reached | \
         false promotions | card busy | duels | steps |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
        scenario.name
    );
    for row in rows {
        let columns = [
            row.name.to_owned(),
            percent(middle(row, |record| record.share_at_step(early))),
            percent(middle(row, |record| record.share_at_step(late))),
            percent(middle(row, |record| record.share_at_second(60.0 * soon))),
            percent(middle(row, |record| record.share_at_second(60.0 * end))),
            gain(&rows[0].records, &row.records),
            reached(row),
            promotions(row),
            whole(average(row, RunRecord::busy)),
            whole(average(row, RunRecord::duel_share)),
            format!("{:.0}", average(row, |record| record.steps as f64)),
        ];
        let _ = writeln!(text, "| {} |", columns.join(" | "));
    }
    text
}

/// The table of a tuning scenario: evaluations instead of minutes.
pub(crate) fn tuning_table(scenario: &Scenario, rows: &[&Row]) -> String {
    let mut text = format!(
        "| {} | evaluations to 5 % | to 1 % | best after 50 | after 100 | after 200 |\n| --- | --- | --- | --- | --- | --- |\n",
        scenario.name
    );
    for row in rows {
        let evaluations = |to: f64| {
            let of = |record: &RunRecord| {
                let judged = record.judgements_to(to);
                judged.map_or(f64::INFINITY, |judged| judged as f64)
            };
            let Interval { value, low, high } = middle(row, of);
            format!("{value:.0} [{low:.0}, {high:.0}]")
        };
        let after = |judged| percent(middle(row, |record| record.share_at_judgement(judged)));
        let columns = [
            row.name.to_owned(),
            evaluations(0.95),
            evaluations(0.99),
            after(50),
            after(100),
            after(200),
        ];
        let _ = writeln!(text, "| {} |", columns.join(" | "));
    }
    text
}

fn values(row: &Row, of: impl Fn(&RunRecord) -> f64) -> Vec<f64> {
    row.records.iter().map(of).collect()
}

fn middle(row: &Row, of: impl Fn(&RunRecord) -> f64) -> Interval {
    bootstrap(&values(row, of), median)
}

fn average(row: &Row, of: impl Fn(&RunRecord) -> f64) -> f64 {
    mean(&values(row, of))
}

/// The mean difference of the final shares, by seed.
fn gain(first: &[RunRecord], records: &[RunRecord]) -> String {
    if std::ptr::eq(first, records) {
        return "-".to_owned();
    }
    let pairs = first.iter().zip(records);
    let differences = pairs.map(|(one, other)| other.final_share() - one.final_share());
    let Interval { value, low, high } = bootstrap(&differences.collect::<Vec<_>>(), mean);
    let [value, low, high] = [value, low, high].map(|one| 100.0 * one);
    let is_clear = low > 0.0 || high < 0.0;
    let mark = if is_clear { "**" } else { "" };
    format!("{mark}{value:+.1}{mark} [{low:+.1}, {high:+.1}]")
}

fn reached(row: &Row) -> String {
    let count = row.records.iter();
    let count = count
        .filter(|record| record.final_share() >= REACHED)
        .count();
    share(count as u64, row.records.len() as u64).map_or("-".to_owned(), percent)
}

fn promotions(row: &Row) -> String {
    let sum = |of: fn(&RunRecord) -> u64| row.records.iter().map(of).sum::<u64>();
    let (wrong, all) = (
        sum(|record| record.false_replacements),
        sum(|record| record.replacements),
    );
    share(wrong, all).map_or("-".to_owned(), |share| {
        format!("{:.1} % of {all}", 100.0 * share.value)
    })
}

fn percent(Interval { value, low, high }: Interval) -> String {
    let [value, low, high] = [value, low, high].map(|one| 100.0 * one);
    format!("{value:.0} [{low:.0}, {high:.0}]")
}

fn whole(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}
