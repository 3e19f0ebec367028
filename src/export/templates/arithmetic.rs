fn overflow() -> Error {
    Error("the value does not fit 64 bits".to_owned())
}
fn add(a: i64, b: i64) -> Result<i64, Error> {
    a.checked_add(b).ok_or_else(overflow)
}
fn sub(a: i64, b: i64) -> Result<i64, Error> {
    a.checked_sub(b).ok_or_else(overflow)
}
fn mul(a: i64, b: i64) -> Result<i64, Error> {
    a.checked_mul(b).ok_or_else(overflow)
}
fn neg(a: i64) -> Result<i64, Error> {
    a.checked_neg().ok_or_else(overflow)
}
fn floor_div(a: i64, b: i64) -> Result<i64, Error> {
    if b == 0 {
        return Err(Error("division by zero".to_owned()));
    }
    let quotient = a.checked_div(b).ok_or_else(overflow)?;
    Ok(if a % b != 0 && (a < 0) != (b < 0) { quotient - 1 } else { quotient })
}
fn floor_mod(a: i64, b: i64) -> Result<i64, Error> {
    sub(a, mul(floor_div(a, b)?, b)?)
}
fn ceil_div(a: i64, b: i64) -> Result<i64, Error> {
    neg(floor_div(neg(a)?, b)?)
}
fn minimum(a: i64, b: i64) -> i64 {
    a.min(b)
}
fn maximum(a: i64, b: i64) -> i64 {
    a.max(b)
}
fn next_pow2(a: i64) -> Result<i64, Error> {
    let mut power = 1;
    while power < a {
        power = add(power, power)?;
    }
    Ok(power)
}
fn within(value: i64, low: i64, high: i64, what: &str) -> Result<i64, Error> {
    if value < low || value > high {
        return Err(Error(format!("{what}: expected {low} to {high}, found {value}")));
    }
    Ok(value)
}
