//! Which points of a kernel are worth trying: those that meet its constraints and the limits of a launch on every timed workload.
//!
//! Everything but the tunables is replaced by its value, so that rules can be kept in a journal and evaluated without a task or a device.
//! A rule that needs an unknown limit is left out: the judge knows it. Compiles nothing.

use indexmap::{IndexMap, IndexSet};

use super::Kernel;
use super::bind::{DeviceLimits, MAX_BLOCK_THREADS};
use super::header::{LaunchHeader, LocatedExpression, Variant};
use crate::base::expression::Expression;
use crate::task::Binding;

/// The most rules of a kernel. The judge refuses a point that breaks one beyond them.
const MAX_RULES: usize = 64;

/// The device limits that are known where rules are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KnownLimits {
    pub sm_count: Option<i64>,
    pub max_shared_bytes: Option<i64>,
}

impl From<DeviceLimits> for KnownLimits {
    fn from(limits: DeviceLimits) -> Self {
        Self {
            sm_count: Some(limits.sm_count),
            max_shared_bytes: Some(limits.max_shared_bytes),
        }
    }
}

/// Expressions over the tunables of a kernel, none of which may be 0.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PointRules(Vec<Expression>);

impl PointRules {
    /// The rules of a journal. A text that is no expression is left out.
    pub(crate) fn of_texts<T: AsRef<str>>(texts: &[T]) -> Self {
        let parsed = texts.iter().map(|text| Expression::parse(text.as_ref()));
        Self(parsed.filter_map(Result::ok).collect())
    }

    /// The rules for a journal.
    pub fn texts(&self) -> Vec<String> {
        let texts = self.0.iter().map(Expression::text);
        texts.map(str::to_owned).collect()
    }

    /// Whether a point meets all rules. A rule that cannot be evaluated, as with a division by zero, is broken.
    pub(crate) fn allow(&self, value_of: &dyn Fn(&str) -> Option<i64>) -> bool {
        let holds = |rule: &Expression| rule.evaluate(value_of).is_ok_and(|value| value != 0);
        self.0.iter().all(holds)
    }

    /// As [`Self::allow`], for a point with names.
    pub(crate) fn allow_point(&self, point: &IndexMap<String, i64>) -> bool {
        self.allow(&|name| point.get(name).copied())
    }
}

impl Kernel {
    /// The rules for the points of this kernel on some workloads.
    pub fn point_rules(&self, bindings: &[&Binding], limits: KnownLimits) -> PointRules {
        let mut rules = IndexSet::new();
        for binding in bindings {
            let Some(variant) = self.fixed_variant(binding, limits) else {
                continue;
            };
            let known = KnownValues {
                tunables: &self.header.tunables,
                binding,
                variant,
                limits,
            };
            for constraint in &self.header.constraints {
                rules.extend(known.insert_into(constraint));
            }
            for launch in &self.header.launches {
                self.add_launch_rules(launch, &known, &mut rules);
            }
        }
        // A rule without a tunable says nothing about points, unless it leaves none.
        let concerns_points = |rule: &Expression| {
            !rule.names().is_empty() || rule.evaluate(&|_| None).is_ok_and(|value| value == 0)
        };
        let parsed = rules.iter().filter_map(|text| Expression::parse(text).ok());
        PointRules(parsed.filter(concerns_points).take(MAX_RULES).collect())
    }

    /// The variant that applies to a workload at every point. The outer `None`: that depends on the point or on an unknown limit.
    fn fixed_variant(&self, binding: &Binding, limits: KnownLimits) -> Option<Option<&Variant>> {
        let known = KnownValues {
            tunables: &self.header.tunables,
            binding,
            variant: None,
            limits,
        };
        for variant in &self.header.variants {
            let condition = Expression::parse(&known.insert_into(&variant.when)?).ok()?;
            if condition.evaluate(&|_| None).ok()? != 0 {
                return Some(Some(variant));
            }
        }
        Some(None)
    }

    /// What every device demands of a launch: sizes of at least 1, and blocks and shared memory that are not too large.
    fn add_launch_rules(
        &self,
        launch: &LaunchHeader,
        known: &KnownValues<'_>,
        rules: &mut IndexSet<String>,
    ) {
        let condition = launch.when.as_ref().map(|when| known.insert_into(when));
        let Some(condition) = condition.map_or(Some(None), |text| text.map(Some)) else {
            return;
        };
        let mut add = |rule: String| {
            rules.insert(match &condition {
                Some(when) => format!("not ({when}) or {rule}"),
                None => rule,
            });
        };
        let inserted = |sizes: &[LocatedExpression]| -> Option<Vec<String>> {
            sizes.iter().map(|size| known.insert_into(size)).collect()
        };
        for size in inserted(&launch.grid).into_iter().flatten() {
            add(format!("({size}) >= 1"));
        }
        if let Some(block) = inserted(&launch.block) {
            let product: Vec<_> = block.iter().map(|size| format!("({size})")).collect();
            let product = product.join(" * ");
            add(format!(
                "{product} >= 1 and {product} <= {MAX_BLOCK_THREADS}"
            ));
        }
        let shared = launch.shared.as_ref();
        let shared = shared.and_then(|bytes| known.insert_into(bytes));
        if let (Some(bytes), Some(max)) = (shared, known.limits.max_shared_bytes) {
            add(format!("({bytes}) >= 0 and ({bytes}) <= {max}"));
        }
    }
}

/// The values that rules are made with.
#[derive(Clone, Copy)]
struct KnownValues<'a> {
    tunables: &'a IndexMap<String, Vec<i64>>,
    binding: &'a Binding,
    /// Its values replace those of a point.
    variant: Option<&'a Variant>,
    limits: KnownLimits,
}

impl KnownValues<'_> {
    /// The text of an expression in which only tunables are left as names. `None` if a limit in it is unknown.
    fn insert_into(&self, located: &LocatedExpression) -> Option<String> {
        let expression = &located.expression;
        let mut text = String::new();
        let mut end = 0;
        for (name, offset) in expression.names() {
            let value = match name {
                "sm_count" => Some(self.limits.sm_count?),
                "max_shared_bytes" => Some(self.limits.max_shared_bytes?),
                _ => {
                    let variant = self.variant;
                    let set = variant.and_then(|variant| variant.values.get(name));
                    let axis = || self.binding.axes.get(name);
                    let is_tunable = self.tunables.contains_key(name);
                    (if is_tunable { set } else { axis() }).copied()
                }
            };
            text.push_str(&expression.text()[end..offset]);
            match value {
                Some(value) => text.push_str(&format!("({value})")),
                None => text.push_str(name),
            }
            end = offset + name.len();
        }
        text.push_str(&expression.text()[end..]);
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Definition;

    const LIMITS: KnownLimits = KnownLimits {
        sm_count: Some(132),
        max_shared_bytes: None,
    };

    fn rules_of(header: &str, rows: &[i64]) -> PointRules {
        let definition = r#"{"name": "scale", "axes": {"rows": {"type": "var"}}, "inputs": {"x": {"shape": ["rows"], "dtype": "float32"}},
            "outputs": {"output": {"shape": ["rows"], "dtype": "float32"}}, "reference": ""}"#;
        let definition = Definition::parse(definition, "scale").unwrap();
        let source = format!(
            "/* kforge\nlaunch:\n  - kernel: scale\n    grid: rows // ROWS\n    block: WARPS * 32, 2\n    args: x, output, rows\ntunables:\n  ROWS: [1, 2, 8]\n  WARPS: [4, 16, 32]\n{header}*/\n"
        );
        let kernel = Kernel::parse(&source, &definition).unwrap();
        let bindings: Vec<Binding> = rows
            .iter()
            .map(|rows| Binding {
                axes: [("rows".to_owned(), *rows)].into(),
            })
            .collect();
        kernel.point_rules(&bindings.iter().collect::<Vec<_>>(), LIMITS)
    }

    fn allows(rules: &PointRules, rows: i64, warps: i64) -> bool {
        let point = [("ROWS".to_owned(), rows), ("WARPS".to_owned(), warps)];
        rules.allow_point(&point.into())
    }

    #[test]
    fn launches_limit_the_points() {
        let rules = rules_of("", &[4, 4096]);
        assert!(allows(&rules, 2, 16));
        assert!(!allows(&rules, 8, 16), "an empty grid at 4 rows");
        assert!(!allows(&rules, 2, 32), "2,048 threads");
        let texts = rules.texts();
        assert_eq!(texts.len(), 3, "{texts:?}");
        assert_eq!(PointRules::of_texts(&texts), rules);
    }

    #[test]
    fn constraints_hold_on_every_workload() {
        let rules = rules_of(
            "constraints: rows % ROWS == 0, WARPS * ROWS <= sm_count\n",
            &[8, 6],
        );
        assert!(allows(&rules, 2, 16));
        assert!(!allows(&rules, 8, 4), "6 rows");
        let impossible = rules_of("constraints: rows > 6\n", &[8, 6]);
        assert!(!allows(&impossible, 1, 4));
        assert!(allows(&rules_of("constraints: rows > 6\n", &[8]), 1, 4));
    }

    #[test]
    fn a_rule_that_cannot_be_evaluated_is_broken_and_one_with_an_unknown_limit_is_left_out() {
        let rules = rules_of("constraints: 8 // (ROWS - 2) != 0\n", &[64]);
        assert!(allows(&rules, 1, 4));
        assert!(!allows(&rules, 2, 4));
        let unknown = rules_of("constraints: ROWS * 100 > max_shared_bytes\n", &[64]);
        assert!(allows(&unknown, 1, 4));
    }

    #[test]
    fn a_variant_replaces_values_on_its_workloads() {
        let header = "constraints: ROWS <= 2\nvariants:\n  - {when: rows <= 8, ROWS: 1}\n";
        assert!(allows(&rules_of(header, &[8]), 8, 4));
        assert!(!allows(&rules_of(header, &[8, 64]), 8, 4));
        // Which variant applies depends on the point, so the judge decides.
        let header = "constraints: ROWS <= 2\nvariants:\n  - {when: WARPS == 4, ROWS: 1}\n";
        assert!(allows(&rules_of(header, &[64]), 8, 16));
    }
}
