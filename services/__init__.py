"""The services: four deciders, one reader, and the chassis they stand on."""
