//! The map "stock", whose values are rows of a table.

use hdgrid::data::{Json, Natural};
use hdgrid::{Map, MapStoreConfig};
use serde::{Deserialize, Serialize};

use super::Bed;

#[derive(Serialize, Deserialize, PartialEq, Clone, Debug)]
pub struct Item {
    pub name: Option<String>,
    pub pieces: i32,
}

pub type Items = Map<Natural<i64>, Json<Item>>;

pub fn items(bed: &Bed) -> Items {
    bed.member().map("stock").expect("a map")
}

pub fn item(name: &str, pieces: i32) -> Item {
    Item { name: Some(name.to_owned()), pieces }
}

/// A map store with these properties.
pub fn with(properties: &[(&str, &str)]) -> MapStoreConfig {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    MapStoreConfig {
        properties: properties.iter().map(owned).collect(),
        ..MapStoreConfig::default()
    }
}
