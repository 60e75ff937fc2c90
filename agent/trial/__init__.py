"""A candidate on trial: beside the current model or in its stead, on recent and on live input, until the verdict."""
