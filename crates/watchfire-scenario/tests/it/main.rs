//! Scenarios: those of the shipped rules, cases that must fail with the right words, and files with mistakes.

mod cases;
mod file;
mod modes;
mod native;
mod shipped;
