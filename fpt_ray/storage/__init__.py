"""Files on a disk or on S3: read, list, write whole. The only importer of boto3."""
