-- What went over the wire, as src/store/exchange.rs codes it; NULL in rows of older versions.
ALTER TABLE delivery ADD COLUMN first_exchange BLOB;
ALTER TABLE attempt ADD COLUMN exchange BLOB;
