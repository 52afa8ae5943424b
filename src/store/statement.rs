//! What goes into a statement and what comes out of it, the same for both databases.

use super::StoreError;

/// One value bound to a statement: TEXT, BIGINT, DOUBLE PRECISION, BLOB or NULL.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bind<'a> {
    Null,
    Integer(i64),
    Real(f64),
    Text(&'a str),
    Blob(&'a [u8]),
}

impl From<i64> for Bind<'_> {
    fn from(value: i64) -> Self {
        Bind::Integer(value)
    }
}

impl From<bool> for Bind<'_> {
    fn from(value: bool) -> Self {
        Bind::Integer(i64::from(value))
    }
}

impl From<f64> for Bind<'_> {
    fn from(value: f64) -> Self {
        Bind::Real(value)
    }
}

impl<'a> From<&'a str> for Bind<'a> {
    fn from(value: &'a str) -> Self {
        Bind::Text(value)
    }
}

impl<'a> From<&'a String> for Bind<'a> {
    fn from(value: &'a String) -> Self {
        Bind::Text(value)
    }
}

impl<'a> From<&'a [u8]> for Bind<'a> {
    fn from(value: &'a [u8]) -> Self {
        Bind::Blob(value)
    }
}

impl<'a, T: Into<Bind<'a>>> From<Option<T>> for Bind<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Bind::Null, Into::into)
    }
}

/// One value read from a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Integer(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
}

/// One row, columns in the order of the SELECT.
#[derive(Clone, Debug, PartialEq)]
pub struct Row(pub(super) Vec<Value>);

impl Row {
    pub fn integer(&self, column: usize) -> Result<i64, StoreError> {
        self.optional_integer(column)?.ok_or_else(|| unexpected(column, "a number, not NULL"))
    }

    pub fn optional_integer(&self, column: usize) -> Result<Option<i64>, StoreError> {
        match &self.0[column] {
            Value::Integer(value) => Ok(Some(*value)),
            Value::Null => Ok(None),
            Value::Real(_) | Value::Text(_) | Value::Blob(_) => Err(unexpected(column, "a whole number")),
        }
    }

    pub fn optional_real(&self, column: usize) -> Result<Option<f64>, StoreError> {
        match &self.0[column] {
            Value::Real(value) => Ok(Some(*value)),
            Value::Null => Ok(None),
            Value::Integer(_) | Value::Text(_) | Value::Blob(_) => Err(unexpected(column, "a number")),
        }
    }

    pub fn text(&self, column: usize) -> Result<&str, StoreError> {
        self.optional_text(column)?.ok_or_else(|| unexpected(column, "a text, not NULL"))
    }

    pub fn optional_text(&self, column: usize) -> Result<Option<&str>, StoreError> {
        match &self.0[column] {
            Value::Text(value) => Ok(Some(value)),
            Value::Null => Ok(None),
            Value::Integer(_) | Value::Real(_) | Value::Blob(_) => Err(unexpected(column, "a text")),
        }
    }

    /// An owned copy of [`Row::text`].
    pub fn string(&self, column: usize) -> Result<String, StoreError> {
        self.text(column).map(str::to_owned)
    }

    /// An owned copy of [`Row::optional_text`].
    pub fn optional_string(&self, column: usize) -> Result<Option<String>, StoreError> {
        Ok(self.optional_text(column)?.map(str::to_owned))
    }

    pub fn blob(&self, column: usize) -> Result<&[u8], StoreError> {
        self.optional_blob(column)?.ok_or_else(|| unexpected(column, "bytes, not NULL"))
    }

    pub fn optional_blob(&self, column: usize) -> Result<Option<&[u8]>, StoreError> {
        match &self.0[column] {
            Value::Blob(value) => Ok(Some(value)),
            Value::Null => Ok(None),
            Value::Integer(_) | Value::Real(_) | Value::Text(_) => Err(unexpected(column, "bytes")),
        }
    }
}

fn unexpected(column: usize, wanted: &str) -> StoreError {
    StoreError::Broken(format!("column {column} of a row does not hold {wanted}"))
}

/// Type of a column that is filled in bulk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Integer,
    Blob,
}

/// A bulk insert: table, columns, and what to do with a row that is there already.
pub struct Insert<const N: usize> {
    pub table: &'static str,
    pub columns: [(&'static str, Kind); N],
    /// `ON CONFLICT ...`, or empty.
    pub on_conflict: &'static str,
}

impl<const N: usize> Insert<N> {
    pub(super) fn head(&self) -> String {
        let names: Vec<&str> = self.columns.iter().map(|(name, _)| *name).collect();
        format!("INSERT INTO {} ({})", self.table, names.join(", "))
    }
}

/// Our own statements must number their parameters in order of first appearance; SQLite would bind others crosswise.
pub(super) fn check_order(sql: &str) {
    if cfg!(debug_assertions) {
        let mut highest = 0;
        for part in sql.split('$').skip(1) {
            let digits = part.len() - part.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let number: usize = part[..digits].parse().expect("a $ in our SQL is followed by a number");
            assert!(number <= highest + 1, "${number} appears before ${} in: {sql}", highest + 1);
            highest = highest.max(number);
        }
    }
}
